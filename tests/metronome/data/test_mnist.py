"""Small files of MNIST's form, from servers on this machine."""

import gzip
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import PROJECT, Commands
from mirrors import Start, checksums_of, files_of, held, idx, mirrors, put, tiny

from metronome.units import BatchSchedule, Duration, InputError, Plan, RunFailed
from project.data import MNIST, FashionMNIST

FILES = files_of()
TRAIN_IMAGES, TRAIN_LABELS, T10K_IMAGES, T10K_LABELS = FILES


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with mirrors() as start:
        yield start


def nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/"


# ---- what the data are ------------------------------------------------------------------------------------


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
    assert "ownloading data from" not in done.out  # pooch's own words
    assert done.result["progress"]["samples"] == 96
    assert done.result["experiment"] == name
    assert 0 <= done.result["metrics"]["test/acc"] <= 1
    assert held(commands.folder / "datasets" / name) == files


# ---- downloading ------------------------------------------------------------------------------------------


def test_all_files_are_downloaded_once(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirror, folder = start(FILES), tmp_path / "new" / "folder"
    caplog.set_level(logging.INFO)
    for _ in range(2):
        data = tiny(FILES, folder, mirror.address)
        data.prepare_data()
        assert held(folder) == FILES
    assert mirror.asked == list(FILES)
    assert [record.message for record in caplog.records] == [f"downloading {', '.join(FILES)} to {folder}"]
    assert [len(split) for split in data.splits] == [20, 5, 5]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_only_what_is_missing_is_downloaded(start: Start, tmp_path: Path) -> None:
    mirror = start(FILES)
    here = {TRAIN_IMAGES: FILES[TRAIN_IMAGES], "t10k-labels-idx1-ubyte": gzip.decompress(FILES[T10K_LABELS])}
    put(here, tmp_path)
    data = tiny(FILES, tmp_path, mirror.address)
    data.prepare_data()
    assert mirror.asked == [TRAIN_LABELS, T10K_IMAGES]
    assert [len(split) for split in data.splits] == [20, 5, 5]


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_there_needs_no_network(packed: bool, start: Start, tmp_path: Path) -> None:
    unpacked = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in FILES.items()}
    put(FILES if packed else unpacked, tmp_path)
    mirror = start(FILES)
    data = tiny(FILES, tmp_path, mirror.address)
    data.prepare_data()
    assert [len(split) for split in data.splits] == [20, 5, 5]
    assert mirror.asked == []
    assert held(tmp_path) == (FILES if packed else unpacked)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("404", "answers 404 Not Found"),
        ("another file", "gives another file, of another MD5"),
        ("cut", "breaks off"),
        ("silent", "is silent for 0.5 seconds"),
        ("stalls", "is silent for 0.5 seconds"),
        ("trickles", "gives fewer than 10,000 bytes in 0.5 seconds"),
        ("nobody", "does not answer"),
    ],
)
@pytest.mark.parametrize("others", [True, False], ids=["another mirror", "no other"])
def test_a_bad_mirror(
    way: str, words: str, others: bool, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is tried; where there is none, one line says what is missing, and nothing of the file is left."""
    monkeypatch.setattr("project.data.mnist._SECONDS", 0.5)
    bad = start(FILES, way, only="" if others else T10K_IMAGES)
    address = nobody() if way == "nobody" else bad.address
    if others:
        good = start(FILES)
        tiny(FILES, tmp_path, address, good.address).prepare_data()
        assert held(tmp_path) == FILES
        assert good.asked == list(FILES)
        assert bad.asked == [TRAIN_IMAGES] * (way != "nobody")  # it is not waited for again
        return
    begin = time.monotonic()
    with pytest.raises(RunFailed) as error:
        tiny(FILES, tmp_path, address).prepare_data()
    assert time.monotonic() - begin < 5
    left = dict(list(FILES.items())[: 0 if way == "nobody" else 2])
    assert held(tmp_path) == left  # the files before it, whole, and of it nothing
    assert str(error.value) == (
        f"{TRAIN_IMAGES if way == 'nobody' else T10K_IMAGES} cannot be downloaded: {address} {words}; put "
        f"{', '.join(name for name in FILES if name not in left)} into {tmp_path} yourself, or name another mirror: "
        "data.mirrors=[https://...]"
    )


def test_a_name_that_is_looked_up_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No timeout of a connection covers that."""
    monkeypatch.setattr("project.data.mnist._SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    begin = time.monotonic()
    with pytest.raises(RunFailed, match=r"http://far.away/ is silent for 0.2 seconds; http://farther.away/ is"):
        tiny(FILES, tmp_path, "http://far.away/", "http://farther.away/").prepare_data()
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("way", ["declared", "zips"])
def test_a_server_with_a_transfer_encoding_of_its_own(way: str, start: Start, tmp_path: Path) -> None:
    """One declares the .gz of the name as its encoding, one would pack files to send them: they come as they lie."""
    tiny(FILES, tmp_path, start(FILES, way).address.rstrip("/")).prepare_data()
    assert held(tmp_path) == FILES


def test_several_processes_at_once(start: Start, tmp_path: Path) -> None:
    mirror = start(FILES)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(tiny(FILES, tmp_path, mirror.address).prepare_data) for _ in range(8)]:
            done.result()
    assert held(tmp_path) == FILES


def test_a_slow_mirror_is_waited_for(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as enough bytes come in each window of time, however many windows that are."""
    monkeypatch.setattr("project.data.mnist._SECONDS", 0.5)
    monkeypatch.setattr("project.data.mnist._FEWEST_BYTES", 2)
    files = dict.fromkeys(FILES, b"some bytes, slowly")
    begin = time.monotonic()
    tiny(files, tmp_path, start(files, "trickles", only=T10K_LABELS).address).prepare_data()
    assert time.monotonic() - begin > 1.5
    assert held(tmp_path) == files


def test_what_a_killed_download_has_left(start: Start, tmp_path: Path) -> None:
    """A later start removes it, and leaves alone what another process is downloading, and what is not its own."""
    folder, mirror = tmp_path / "folder", start(FILES, "silent")
    job = [sys.executable, "-c", f"from project.data import MNIST; MNIST({str(folder)!r}, [{mirror.address!r}])"]
    killed = subprocess.Popen([*job[:-1], f"{job[-1]}.prepare_data()"])
    try:
        while not mirror.asked:
            assert killed.poll() is None
            time.sleep(0.01)
    finally:
        killed.kill()
        killed.wait()
    (left,) = folder.iterdir()
    assert left.name.startswith(f"{TRAIN_IMAGES}.")
    assert left.name.endswith(".part")
    old, running = time.time() - 3600, folder / f"{T10K_LABELS}.running.part"
    put(FILES | {"mine.part": b"mine"}, folder)
    put({"half": b"half"}, running)
    for path in (*left.iterdir(), left, running, folder / "mine.part"):
        os.utime(path, (old, old))
    tiny(FILES, folder, mirror.address).prepare_data()
    names = {*FILES, "mine.part", running.name}  # the last has a file that was written just now
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_no_folder_that_was_not_there(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(RunFailed, match="does not answer"):
        tiny(FILES, folder, nobody()).prepare_data()
    assert list(tmp_path.rglob("*")) == ([folder.parent, folder] if there else [])


# ---- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [FILES[TRAIN_LABELS][:-1], b"", b"<html>", FILES[T10K_LABELS]],
    ids=["short", "empty", "a page", "another"],
)
def test_a_damaged_file_is_told_and_left_alone(content: bytes, start: Start, tmp_path: Path) -> None:
    put({TRAIN_LABELS: content}, tmp_path)
    mirror = start(FILES)
    with pytest.raises(InputError) as error:
        tiny(FILES, tmp_path, mirror.address).prepare_data()
    found, expected = (checksums_of({"x": part})["x"] for part in (content, FILES[TRAIN_LABELS]))
    assert str(error.value) == (
        f"{tmp_path / TRAIN_LABELS} is damaged, or another file: its MD5 is {found}, and it must be {expected}; "
        "delete it, and it is downloaded anew"
    )
    assert held(tmp_path) == {TRAIN_LABELS: content}
    assert mirror.asked == []


def test_images_and_labels_that_do_not_belong_together(tmp_path: Path) -> None:
    files = FILES | {T10K_LABELS: files_of(t10k=9)[T10K_LABELS]}
    put(files, tmp_path)
    data = tiny(files, tmp_path, nobody())
    data.prepare_data()
    with pytest.raises(InputError, match=r"the t10k files in .* do not belong together: 10 images and 9 labels"):
        data.setup()


def test_data_that_were_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte.gz; prepare_data\(\) downloads it"):
        MNIST(tmp_path).setup()


def test_a_folder_that_cannot_be_written_to(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refused)
    with pytest.raises(InputError, match=r"data.folder=.* cannot be written to; give another one"):
        tiny(FILES, tmp_path, start(FILES).address).prepare_data()


@pytest.mark.parametrize(
    "mirrors", [[], "https://x.org/", ["x.org"], ["ftp://x.org/"], ["file:///etc/"], ["http://"], [5], 5, [None]]
)
def test_mirrors_that_are_none(mirrors: Any) -> None:
    with pytest.raises(InputError, match=r"is not a list of web addresses; for example data.mirrors=") as error:
        MNIST(mirrors=mirrors)
    assert str(error.value).startswith(f"data.mirrors={mirrors!r} ")


@pytest.mark.parametrize("mirror", ["http://x.org/files?token=a", "https://x.org/files/#top", "http://x.org?"])
def test_mirrors_that_no_name_can_follow(mirror: str) -> None:
    with pytest.raises(InputError, match=r"has an address with \? or #, and the name of a file cannot follow") as error:
        MNIST(mirrors=["https://x.org/", mirror])
    assert str(error.value).startswith(f"data.mirrors={['https://x.org/', mirror]!r} ")


@pytest.mark.parametrize("name", [T10K_LABELS, T10K_LABELS.removesuffix(".gz")])
@pytest.mark.parametrize("prepares", [True, False])
def test_a_folder_in_the_place_of_a_file(name: str, prepares: bool, tmp_path: Path) -> None:
    put({other: content for other, content in FILES.items() if other != T10K_LABELS}, tmp_path)
    (tmp_path / name).mkdir()
    data = tiny(FILES, tmp_path, nobody())
    with pytest.raises(InputError) as error:
        data.prepare_data() if prepares else data.setup()
    assert str(error.value) == (
        f"{tmp_path / name} is a folder, and must be a file; move it away, and the file is downloaded"
    )


@pytest.mark.parametrize("folder", ["", None, 5, ["x"]])
def test_folders_that_are_none(folder: Any) -> None:
    with pytest.raises(InputError, match="is not the name of a folder"):
        MNIST(folder)


# ---- the files of the world -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("mnist", MNIST), ("fashion_mnist", FashionMNIST)])
def test_the_configuration_says_what_the_class_does(name: str, kind: type[MNIST]) -> None:
    config = yaml.safe_load((PROJECT / f"conf/data/{name}.yaml").read_text())
    assert config["mirrors"] == list(kind.known_mirrors)
    assert Path(config["folder"]) == kind().folder
    assert list(kind.checksums) == [file.removesuffix(".gz") for file in FILES]
    assert all(len(bytes.fromhex(checksum)) == 16 for checksum in kind.checksums.values())


def test_the_two_do_not_take_each_others_files() -> None:
    assert MNIST().folder != FashionMNIST().folder
    assert not set(MNIST.checksums.values()) & set(FashionMNIST.checksums.values())
