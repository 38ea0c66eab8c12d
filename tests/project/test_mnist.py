"""Small files of MNIST's form, from servers on this machine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import PROJECT, Commands
from mirrors import Start, checksums_of, files_of, held, idx, mirrors, put

from metronome.units import BatchSchedule, Duration, InputError, Plan
from project.data import MNIST, FashionMNIST

FILES = files_of()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with mirrors() as start:
        yield start


def test_the_splits(tmp_path: Path) -> None:
    """Every training image trains; the others validate and test in turn. Each keeps its label."""
    images = np.arange(7 * 6).reshape(7, 2, 3)
    images[6, 1, 2] = 255
    rest, labels, rest_labels = images[:5] + 100, np.arange(7), np.array([5, 6, 7, 8, 9])
    contents = [idx(values) for values in (images, labels, rest, rest_labels)]
    put(dict(zip((name.removesuffix(".gz") for name in FILES), contents, strict=True)), tmp_path)
    splits = MNIST(tmp_path).splits
    expected = ((images, labels), (rest[[0, 2, 4]], [5, 7, 9]), (rest[[1, 3]], [6, 8]))
    for split, (pixels, classes) in zip(splits, expected, strict=True):
        x, y = split[torch.arange(len(split))]
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x.shape == (len(pixels), 1, 2, 3)
        assert torch.equal(x[:, 0], torch.tensor(pixels).float() / 255)
        assert y.tolist() == list(classes)
    assert splits.train.columns[0].max() == 1


def test_60_000_samples_in_batches_of_64_are_938_steps(
    start: Start, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Plan.make(60_000, BatchSchedule(64), budgets=[Duration.parse("5 epochs")]).total_steps == 5 * 938
    files = files_of(train=60_000, t10k=2, size=1)
    monkeypatch.setattr(MNIST, "checksums", checksums_of(files))
    done = commands("plan", "+experiment=mnist", f"data.mirrors=[{start(files).address}]")
    assert done.code == 0, done.err
    assert "epoch      60,000 / 64 = 938 steps (the last of 32 samples)" in done.out
    assert "total      5 epochs = 4,690 steps" in done.out


@pytest.mark.parametrize("name", ["mnist", pytest.param("fashion_mnist", marks=pytest.mark.slow)])
def test_a_run(name: str, start: Start, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the download to the test: the terminal says in one line what is downloaded."""
    files = files_of(train=96, t10k=20, size=28)
    monkeypatch.setattr(FashionMNIST if name == "fashion_mnist" else MNIST, "checksums", checksums_of(files))
    options = ["trainer=cpu", "logger=none", "num_threads=1", f"data.mirrors=[{start(files).address}]"]
    done = commands("train", f"+experiment={name}", "budget=2steps", *options)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"downloading {', '.join(FILES)} to datasets/{name}"
    assert done.out.count("downloading") == 1
    assert done.result["progress"]["samples"] == 96
    assert done.result["experiment"] == name
    assert 0 <= done.result["metrics"]["test/acc"] <= 1
    assert held(commands.folder / "datasets" / name) == files


def test_images_and_labels_that_do_not_belong_together(tmp_path: Path) -> None:
    t10k_labels = list(FILES)[-1]
    put(FILES | {t10k_labels: files_of(t10k=9)[t10k_labels]}, tmp_path)
    with pytest.raises(InputError, match=r"the t10k files in .* do not belong together: 10 images and 9 labels"):
        MNIST(tmp_path).setup()


def test_data_that_were_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte.gz; prepare_data\(\) downloads it"):
        MNIST(tmp_path).setup()


@pytest.mark.parametrize(("name", "kind"), [("mnist", MNIST), ("fashion_mnist", FashionMNIST)])
def test_the_configuration_says_what_the_class_does(name: str, kind: type[MNIST]) -> None:
    config = yaml.safe_load((PROJECT / f"conf/data/{name}.yaml").read_text())
    assert config["mirrors"] == list(kind.known_mirrors)
    assert Path(config["folder"]) == kind().files.folder
    assert list(kind.checksums) == list(FILES)
    assert all(len(bytes.fromhex(checksum.removeprefix("md5:"))) == 16 for checksum in kind.checksums.values())


def test_the_two_do_not_take_each_others_files() -> None:
    assert MNIST().files.folder != FashionMNIST().files.folder
    assert not set(MNIST.checksums.values()) & set(FashionMNIST.checksums.values())
