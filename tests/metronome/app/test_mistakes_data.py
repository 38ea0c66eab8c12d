"""A user's mistake about the data to download and the data to measure on: one clear line, nothing half written."""

import gzip
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Commands, Done
from mirrors import Start, checksums_of, files_of, held, idx, mirrors, put

from project.data import MNIST

FILES = files_of(train=32, t10k=10, size=8)
TRAIN_IMAGES, TRAIN_LABELS, T10K_IMAGES, T10K_LABELS = FILES
MNIST_JOB = ("+experiment=mnist", "trainer=cpu", "logger=none", "num_threads=1", "data.batch_size=8", "budget=1steps")
IMAGES_JOB = ("+experiment=images", "trainer=cpu", "logger=none", "num_threads=1", "budget=1steps")
SMALL = ("data.size=8", "data.num_samples=64", "model.network.widths=[8,8,8,8]")


def rows(first: list[tuple], more: list[tuple]) -> list[Any]:
    """Rows with their words for a name; more of their kind run with `-m slow`."""
    marked = [(row, ()) for row in first] + [(row, pytest.mark.slow) for row in more]
    return [pytest.param(*row, id=f"{i} {row[-1][-50:]}", marks=marks) for i, (row, marks) in enumerate(marked)]


def told(done: Done, words: str, code: int = 2) -> str:
    """One line says these words; the result of a run that had begun says them too."""
    assert done.code == code, done.err + done.out
    assert "Traceback" not in done.out + done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not list(done.folder.rglob("*.part"))
    for config in done.folder.glob("runs/**/config.yaml"):
        assert config.with_name("result.json").is_file()
    for result in done.results:
        assert (result["status"], result["error"]) == ("failed", line.removeprefix("error: "))
    return line


@pytest.fixture(autouse=True)
def small_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(MNIST, "checksums", checksums_of(FILES))


@pytest.fixture
def start() -> Iterator[Start]:
    with mirrors() as start:
        yield start


IMAGES = [
    (["data.size=0"], "data.size=0 is not a number of pixels from 1 up"),
    (["model.network.num_channels=1"], "does not take input (6, 3, 8, 8) float32"),
    (["model.network.widths=[8,8]"], "model.network.widths=[8, 8] and model.network.blocks=[2, 2, 2, 2] are of"),
]
MORE_IMAGES = [
    (["data.size=big"], "data.size='big' is not a number of pixels"),
    (["data.num_classes=0"], "data.num_classes=0 is not a number of classes from 1 up"),
    (["data.num_channels=0"], "data.num_channels=0 is not a number of channels from 1 up"),
    (["data.num_samples=0"], "data.num_samples=0 is not a number of samples from 1 up"),
    (["data.data_seed=x"], "data.data_seed='x' is not a whole number"),
    (["data.batch_size=65"], "data.batch_size=65 is larger than the 64 training samples"),
    (["data.size=1000000"], "out of memory outside of a step"),
    (["model.num_classes=5"], "label 9 is out of range: the model has 5 classes"),
    (["model.network.normalize=layer"], "model.network.normalize=layer is not known; use normalize=group"),
    (["model.network.blocks=[2,2,2,x]"], "model.network.blocks=[2, 2, 2, 'x'] is not a list of whole numbers"),
    (["model.network.widths=8"], "model.network.widths=8 is not a list"),
]


@pytest.mark.parametrize(("arguments", "words"), rows(IMAGES, MORE_IMAGES))
def test_images(arguments: list[str], words: str, commands: Commands) -> None:
    told(commands("train", *IMAGES_JOB, *SMALL, *arguments), words)


PLACES = [
    ("plan", ["data.mirrors=[]"], "data.mirrors=[] is not a list of web addresses; for example data.mirrors=[https://"),
    ("train", ["data.folder=file/below"], "data.folder=file/below cannot be made: Not a directory; give another one"),
    ("plan", ["data.mirrors=['http://x.org/f?token=a']"], "data.mirrors=['http://x.org/f?token=a'] has an address"),
    ("train", ["data.folder=file"], "data.folder=file is a file; give a folder"),
]
MORE_PLACES = [
    ("train", ["data.mirrors=x"], "data.mirrors='x' is not a list of web addresses"),
    ("train", ["data.mirrors=[ftp://127.0.0.1/]"], "data.mirrors=['ftp://127.0.0.1/'] is not a list of web addresses"),
    ("train", ["data.mirrors=[5]"], "data.mirrors=[5] is not a list of web addresses"),
    ("train", ["data.folder=''"], "data.folder='' is not the name of a folder"),
    ("train", ["data.folder=null"], "data.folder=None is not the name of a folder"),
    ("train", ["data.folder=/proc/below"], "data.folder=/proc/below cannot be made: No such file or directory; give"),
]


@pytest.mark.parametrize(("script", "arguments", "words"), rows(PLACES, MORE_PLACES))
def test_where_the_files_are(script: str, arguments: list[str], words: str, commands: Commands) -> None:
    (commands.folder / "file").write_text("mine")
    told(commands(script, *MNIST_JOB, *arguments), words)
    assert (commands.folder / "file").read_text() == "mine"
    assert not (commands.folder / "datasets").exists()


@pytest.mark.parametrize(
    "mirror",
    [
        "http://127.0.0.1:{port}/",
        *(pytest.param(f"http://{name}/", marks=pytest.mark.slow) for name in ("nowhere.invalid", "a..b", "[")),
    ],
)
def test_no_network(mirror: str, commands: Commands) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        mirror = mirror.format(port=nobody.getsockname()[1])
        done = commands("train", *MNIST_JOB, f"data.mirrors=['{mirror}']")
    told(
        done,
        f"{TRAIN_IMAGES} cannot be downloaded: {mirror} does not answer; put {', '.join(FILES)} into datasets/mnist "
        "yourself, or name another mirror: data.mirrors=[https://...]",
        code=1,
    )
    assert not (commands.folder / "datasets").exists()


def test_no_network_for_a_plan(commands: Commands) -> None:
    """To count, the numbers are known that were published."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = commands("plan", *MNIST_JOB, f"data.mirrors=['http://127.0.0.1:{nobody.getsockname()[1]}/']")
    assert done.code == 0, done.err
    assert done.out.startswith("samples    60,000 in an epoch\n")
    assert not (commands.folder / "datasets").exists()


WAYS = [("cut", "breaks off")]
MORE_WAYS = [("404", "answers 404 Not Found"), ("another file", "gives another file, of another MD5")]


@pytest.mark.parametrize(("way", "words"), rows(WAYS, MORE_WAYS))
def test_a_bad_mirror(way: str, words: str, start: Start, commands: Commands) -> None:
    """What is whole stays, and the next start asks only for the rest."""
    bad, good = start(FILES, way, only=T10K_IMAGES), start(FILES)
    done = commands("train", *MNIST_JOB, f"data.mirrors=[{bad.address}]")
    told(done, f"{T10K_IMAGES} cannot be downloaded: {bad.address} {words}; put {T10K_IMAGES}, {T10K_LABELS}", code=1)
    assert held(commands.folder / "datasets/mnist") == {name: FILES[name] for name in (TRAIN_IMAGES, TRAIN_LABELS)}
    done = commands("train", *MNIST_JOB, f"data.mirrors=[{good.address}]")
    assert (done.code, good.asked) == (0, [T10K_IMAGES, T10K_LABELS]), done.err


def unpacked(name: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    """The files with one of them unpacked and changed."""
    others = {other: content for other, content in FILES.items() if other != name}
    return others | {name.removesuffix(".gz"): change(gzip.decompress(FILES[name]))}


HELD = [
    (FILES | {T10K_LABELS: FILES[T10K_LABELS][:-5]}, "t10k-labels-idx1-ubyte.gz is damaged, or another file"),
    (unpacked(TRAIN_IMAGES, lambda x: x[:-9]), "32 x 8 x 8 values were announced, and 2,039 are there"),
    (unpacked(TRAIN_LABELS, lambda x: idx(np.zeros(31))), "do not belong together: 32 images and 31 labels"),
]
MORE_HELD = [
    (FILES | {TRAIN_LABELS: FILES[T10K_LABELS]}, "train-labels-idx1-ubyte.gz is damaged, or another file"),
    (FILES | {TRAIN_IMAGES: b""}, "delete it, and it is downloaded anew"),
    (unpacked(TRAIN_LABELS, lambda x: x[:5]), "is no IDX file: it has 5 bytes"),
    (unpacked(T10K_LABELS, lambda x: b"<html>...</html>"), "t10k-labels-idx1-ubyte is not an IDX file of bytes"),
    (unpacked(TRAIN_LABELS, lambda x: idx(np.full(32, 10))), "label 10 is out of range: the model has 10 classes"),
    (unpacked(TRAIN_IMAGES, lambda x: idx(np.zeros((0, 8, 8)))), "0 images and 32 labels"),
]


@pytest.mark.parametrize(("files", "words"), rows(HELD, MORE_HELD))
def test_files_that_are_there(files: dict[str, bytes], words: str, start: Start, commands: Commands) -> None:
    """They are the user's: told, and left as they are. Nothing is downloaded in their place."""
    folder, mirror = commands.folder / "datasets/mnist", start(FILES)
    put(files, folder)
    told(commands("train", *MNIST_JOB, f"data.mirrors=[{mirror.address}]"), words)
    assert held(folder) == files
    assert mirror.asked == []


def test_a_folder_in_the_place_of_a_file(commands: Commands) -> None:
    (commands.folder / "datasets/mnist" / TRAIN_IMAGES).mkdir(parents=True)
    told(commands("train", *MNIST_JOB), f"datasets/mnist/{TRAIN_IMAGES} is a folder, and must be a file; move it away")


def test_a_full_disk(start: Start, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, mode: str) -> object:
        Path(path).write_text("half of it")
        return open("/dev/full", mode)

    monkeypatch.setattr("pooch.downloaders.open", full, raising=False)
    done = commands("train", *MNIST_JOB, f"data.mirrors=[{start(FILES).address}]")
    assert (done.code, done.err) == (1, "error: No space left on device\n")
    assert not (commands.folder / "datasets").exists()
