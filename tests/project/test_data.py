"""Data sets: what they hold, that their splits share nothing, and what of them no seed may change."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from commands import Commands, run_apart
from sklearn.datasets import load_digits
from torch import Tensor

from metronome.data import DataModule
from metronome.units import InputError
from project.data import Digits, Images, Linear, Text


def columns(data: DataModule) -> list[tuple[Tensor, Tensor]]:
    """The inputs and the targets of each split."""
    return [split.columns for split in data.splits]


@pytest.mark.parametrize(
    ("data", "sizes", "inputs", "targets"),
    [
        (Digits(), (1257, 180, 360), (1, 8, 8), ()),
        (Digits(num_train=100), (100, 180, 360), (1, 8, 8), ()),
        (Linear(), (1000, 200, 200), (10,), (1,)),
        (Linear(num_samples=4, num_features=1), (4, 1, 1), (1,), (1,)),
        (Images(size=4), (1000, 100, 100), (3, 4, 4), ()),
        (Images(num_samples=9, size=2, num_channels=1), (9, 1, 1), (1, 2, 2), ()),
    ],
)
def test_sizes_and_shapes(data: DataModule, sizes: tuple, inputs: tuple, targets: tuple) -> None:
    assert tuple(len(split) for split in data.splits) == sizes
    assert [tuple(x.shape) for x, _ in columns(data)] == [(size, *inputs) for size in sizes]
    assert [tuple(y.shape) for _, y in columns(data)] == [(size, *targets) for size in sizes]


def test_every_digit_is_in_one_split() -> None:
    """All splits together are the source, image by image, each with its label; of each class each has its part."""
    images, labels = (values.tolist() for values in load_digits(return_X_y=True))
    source, found = Counter((tuple(image), label) for image, label in zip(images, labels, strict=True)), Counter()
    for x, y in columns(Digits()):
        assert (x.dtype, y.dtype, x.min(), x.max()) == (torch.float32, torch.int64, 0.0, 1.0)
        assert (y.bincount() - torch.tensor(labels).bincount() * len(y) / 1797).abs().max() < 1.5
        found.update(
            (tuple(image), label) for image, label in zip((x.flatten(1) * 16).tolist(), y.tolist(), strict=True)
        )
    assert found == source


@pytest.mark.parametrize("data", [Digits(), Linear(), Images(size=4)], ids=["digits", "linear", "images"])
def test_the_splits_share_no_sample(data: DataModule) -> None:
    inputs = torch.cat([x.flatten(1) for x, _ in columns(data)])
    assert len(inputs.unique(dim=0)) == len(inputs)


@pytest.mark.parametrize("kind", [Digits, Linear, lambda **options: Images(num_samples=20, size=4, **options)])
def test_the_data_are_the_same_for_every_seed(kind: Callable[..., DataModule]) -> None:
    torch.manual_seed(1)
    first = columns(kind())
    torch.manual_seed(2)
    for one, other in zip(first, columns(kind()), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    if kind is not Digits:
        assert not torch.equal(first[0][0], columns(kind(data_seed=1))[0][0])


@pytest.mark.parametrize("noise", [0.0, 0.1, 2.0])
def test_least_squares_leaves_the_noise(noise: float) -> None:
    (x, y), *others = columns(Linear(noise=noise, num_samples=2000))
    weights = torch.linalg.lstsq(x, y).solution
    residual = y - x @ weights
    assert residual.square().sum().div(2000 - 10).sqrt().item() == pytest.approx(noise, rel=0.08, abs=1e-5)
    for x, y in others:  # 400 samples each, of the same line
        assert (y - x @ weights).square().mean().sqrt().item() == pytest.approx(noise, rel=0.15, abs=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_a_batch_of_images_is_of_floats_from_0_to_1(precision: str, dtype: torch.dtype) -> None:
    """In the precision of the run; in `splits` they are bytes."""
    data = Images(num_samples=200, size=4, num_classes=7)
    data.trainer = jobs.trainer(precision=precision)
    images, labels = data.splits.train.columns
    x, y = data.on_after_batch_transfer((images, labels), 0)
    assert (images.dtype, x.dtype, x.min(), x.max()) == (torch.uint8, dtype, 0.0, 1.0)
    assert torch.equal(x, (images.float() / 255).to(dtype))
    assert y.unique().tolist() == list(range(7))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Digits, {"num_train": 0}, "data.num_train=0 is not a number of samples from 1 up"),
        (Digits, {"num_train": 1258}, "data.num_train=1258 is more than the 1,257 training samples"),
        (Linear, {"num_samples": -5}, "data.num_samples=-5 is not a number of samples from 1 up"),
        (Linear, {"num_features": 0}, "data.num_features=0 is not a number of features from 1 up"),
        (Linear, {"noise": -0.5}, "data.noise=-0.5 is not a standard deviation from 0 up"),
        (Linear, {"num_workers": -1}, "data.num_workers=-1 is not a number of processes from 0 up"),
        (Images, {"num_samples": 0}, "data.num_samples=0 is not a number of samples from 1 up"),
        (Images, {"size": 2.5}, "data.size=2.5 is not a number of pixels from 1 up"),
        (Images, {"num_channels": -1}, "data.num_channels=-1 is not a number of channels from 1 up"),
        (Images, {"num_classes": True}, "data.num_classes=True is not a number of classes from 1 up"),
        (Text, {"max_length": 1}, "data.max_length=1 is not a number of tokens from 2 up"),
        (Images, {"data_seed": -1}, "data.data_seed=-1 is not a whole number from 0 up, below 2**63"),
    ],
)
def test_a_bad_value_is_one_line(kind: type[DataModule], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        kind(**options).setup()
    assert str(error.value) == message


# ---- the experiment of random images ----------------------------------------------------------------------

IMAGES = ("+experiment=images", "trainer=cpu", "logger=none", "num_threads=1")


def test_a_run_on_images(commands: Commands) -> None:
    """Every option of the data reaches the network."""
    small = ["data.size=32", "data.num_samples=128", "data.num_classes=3", "data.num_channels=2"]
    done = commands("train", *IMAGES, *small, "model.network.widths=[8,16,16,32]", "budget=2steps")
    assert (done.code, done.err) == (0, "")
    assert done.result["progress"] | {"epochs": 1} == {"epochs": 1, "steps": 2, "iterations": 2, "samples": 128}
    weights = torch.load(done.run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert weights["network.0.weight"].shape == (8, 2, 7, 7)
    assert weights[list(weights)[-1]].shape == (3,)


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
