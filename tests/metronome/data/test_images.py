from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from commands import Commands, run_apart
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metronome.units import InputError
from project.data import Images


def columns(**options: Any) -> list[tuple[Tensor, Tensor]]:
    return [split.columns for split in Images(**{"size": 4, **options}).splits]


@pytest.mark.parametrize(
    ("num_samples", "size", "num_channels", "sizes"),
    [(1000, 3, 3, [1000, 100, 100]), (64, 8, 1, [64, 6, 6]), (9, 1, 2, [9, 1, 1]), (1, 2, 3, [1, 1, 1])],
)
def test_sizes(num_samples: int, size: int, num_channels: int, sizes: list[int]) -> None:
    splits = columns(num_samples=num_samples, size=size, num_channels=num_channels)
    assert [tuple(images.shape) for images, _ in splits] == [(n, num_channels, size, size) for n in sizes]
    assert [tuple(labels.shape) for _, labels in splits] == [(n,) for n in sizes]


def test_the_default_is_1_000_images_of_3x224x224_in_10_classes() -> None:
    data = Images()
    assert (data.sizes, data.shape, data.num_classes, data.batch_size) == ((1000, 100, 100), (3, 224, 224), 10, 64)


def test_every_value_and_every_class_is_there() -> None:
    """Each about as often: 5 standard deviations of a count are allowed."""
    images, labels = columns(num_samples=2000, num_classes=7)[0]
    for values, kinds in ((images.flatten().long(), 256), (labels, 7)):
        counts, mean = values.bincount().double(), len(values) / kinds
        assert len(counts) == kinds
        assert (counts - mean).abs().max() < 5 * mean**0.5


def test_the_data_have_a_seed_of_their_own() -> None:
    torch.manual_seed(1)
    first = columns(num_samples=20)
    torch.manual_seed(2)
    again, other = columns(num_samples=20), columns(num_samples=20, data_seed=1)
    for (x, y), (same_x, same_y), (other_x, _) in zip(first, again, other, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)
        assert not torch.equal(x, other_x)


def test_the_splits_share_no_image() -> None:
    images = torch.cat([images for images, _ in columns(num_samples=200)]).flatten(1)
    assert len(images.unique(dim=0)) == len(images) == 240


class Seen(jobs.Net):
    """A linear classifier that keeps the batches that it trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 10))
        self.batches: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.batches.append(batch)
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert batch[0].dtype == self.net[1].weight.dtype  # pyright: ignore
        self.log("val/loss", cross_entropy(self.net(batch[0]), batch[1]))


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_batch_is_of_floats_from_0_to_1(precision: str, dtype: torch.dtype, accumulate: int) -> None:
    """In the precision of the run, cut into micro-batches or not; together they are the images in `splits`."""
    data, model = Images(num_samples=10, size=4, batch_size=4, shuffle=False), Seen()
    jobs.fit(model=model, data=data, max_epochs=1, precision=precision, accumulate_grad_batches=accumulate)
    images, labels = data.splits.train.columns
    assert images.dtype == torch.uint8
    assert {x.dtype for x, _ in model.batches} == {dtype}
    assert torch.equal(torch.cat([x for x, _ in model.batches]), (images.float() / 255).to(dtype))
    assert torch.equal(torch.cat([y for _, y in model.batches]), labels)
    assert len(model.batches) == {1: 3, 3: 3 + 3 + 2}[accumulate]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "data.num_samples=0 is not a number of samples from 1 up"),
        ({"size": 0}, "data.size=0 is not a number of pixels from 1 up"),
        ({"size": 2.5}, "data.size=2.5 is not a number of pixels from 1 up"),
        ({"num_channels": -1}, "data.num_channels=-1 is not a number of channels from 1 up"),
        ({"num_classes": 0}, "data.num_classes=0 is not a number of classes from 1 up"),
        ({"num_classes": True}, "data.num_classes=True is not a number of classes from 1 up"),
        ({"data_seed": -1}, "data.data_seed=-1 is not a whole number from 0 up, below 2**63"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Images(**options)
    assert str(error.value) == message


# ---- the experiment ---------------------------------------------------------------------------------------

IMAGES = ("+experiment=images", "trainer=cpu", "logger=none", "num_threads=1")


def test_the_plan(commands: Commands) -> None:
    done = commands("plan", "+experiment=images", "data.size=1")
    assert "epoch      1,000 / 64 = 16 steps (the last of 40 samples)" in done.out
    assert "total      10 epochs = 160 steps" in done.out


def test_a_run(commands: Commands) -> None:
    """Every option of the data reaches the network."""
    small = ["data.size=32", "data.num_samples=128", "data.num_classes=3", "data.num_channels=2"]
    done = commands("train", *IMAGES, *small, "model.network.widths=[8,16,16,32]", "budget=2steps")
    assert (done.code, done.err) == (0, "")
    assert done.result["progress"] | {"epochs": 1} == {"epochs": 1, "steps": 2, "iterations": 2, "samples": 128}
    weights = torch.load(done.run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert weights["network.0.weight"].shape == (8, 2, 7, 7)
    assert weights[list(weights)[-1]].shape == (3,)


def test_the_network_as_it_is(commands: Commands) -> None:
    options = [
        "data.size=32",
        "data.num_samples=128",
        "budget=2steps",
        "test=false",
        "callbacks=none",
        "trainer.limit_val_batches=0",
    ]
    done = commands("train", *IMAGES, *options)
    assert (done.code, done.result["status"], done.result["progress"]["samples"]) == (0, "finished", 128), done.err


@pytest.mark.slow
def test_accumulation_saves_memory(tmp_path: Path) -> None:
    """Eight micro-batches of 8 images take less than one of 64, and make the same steps."""
    peaks = {}
    for parts in (1, 8):
        (folder := tmp_path / str(parts)).mkdir()
        options = ["data.size=128", "data.num_samples=64", "budget=1steps", f"trainer.accumulate_grad_batches={parts}"]
        done = run_apart(folder, "train", *IMAGES, *options)
        assert done.code == 0, done.err
        assert done.result["progress"] == {"epochs": 1, "steps": 1, "iterations": parts, "samples": 64}
        peaks[parts] = done.result["peak_memory_bytes"]
    assert peaks[8] < peaks[1] - 200e6, peaks  # a micro-batch of 64 takes 0.5 GB
