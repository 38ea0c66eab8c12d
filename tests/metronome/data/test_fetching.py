"""Small files, from servers on this machine."""

import gzip
import hashlib
import logging
import multiprocessing
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mirrors import Start, checksums_of, held, mirrors, nobody, put

from metronome.data.fetching import RemoteFiles
from metronome.units import InputError, RunFailed

FILES = {f"{name}.gz": gzip.compress(name.encode() * 9, mtime=0) for name in ("first", "second", "third", "fourth")}
FIRST, SECOND, THIRD, FOURTH = FILES
UNPACKED = {name.removesuffix(".gz"): gzip.decompress(content) for name, content in FILES.items()}
KNOWN = ("https://known.org/files/",)

fork = multiprocessing.get_context("fork")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with mirrors() as start:
        yield start


def remote(folder: Path, *mirrors: str, files: dict[str, bytes] = FILES) -> RemoteFiles:
    return RemoteFiles(checksums_of(files), KNOWN, folder, mirrors)


# ---- what is downloaded -----------------------------------------------------------------------------------


def test_all_files_are_downloaded_once(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirror, folder = start(FILES), tmp_path / "new" / "folder"
    caplog.set_level(logging.INFO)
    for _ in range(2):
        remote(folder, mirror.address).fetch()
        assert held(folder) == FILES
    assert mirror.asked == list(FILES)
    assert [record.message for record in caplog.records] == [f"downloading {', '.join(FILES)} to {folder}"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_only_what_is_missing_is_downloaded(start: Start, tmp_path: Path) -> None:
    mirror = start(FILES)
    put({FIRST: FILES[FIRST], "fourth": UNPACKED["fourth"]}, tmp_path)
    files = remote(tmp_path, mirror.address)
    files.fetch()
    assert mirror.asked == [SECOND, THIRD]
    assert [files.path(name).name for name in FILES] == [FIRST, SECOND, THIRD, "fourth"]


@pytest.mark.parametrize("there", [FILES, UNPACKED], ids=["packed", "unpacked"])
def test_what_is_there_needs_no_network(there: dict[str, bytes], start: Start, tmp_path: Path) -> None:
    put(there, tmp_path)
    mirror = start(FILES)
    files = remote(tmp_path, mirror.address)
    files.fetch()
    assert [files.path(name) for name in FILES] == [tmp_path / name for name in there]
    assert mirror.asked == []
    assert held(tmp_path) == there


@pytest.mark.parametrize("way", ["declared", "zips"])
def test_a_server_with_a_transfer_encoding_of_its_own(way: str, start: Start, tmp_path: Path) -> None:
    """One declares the .gz of the name as its encoding, one would pack files to send them: they come as they lie."""
    remote(tmp_path, start(FILES, way).address.rstrip("/")).fetch()
    assert held(tmp_path) == FILES


def test_a_checksum_of_another_kind(start: Start, tmp_path: Path) -> None:
    mirror = start({"x": b"content"}).address
    for content, folder in ((b"content", tmp_path / "one"), (b"other", tmp_path / "two")):
        files = RemoteFiles({"x": f"sha256:{hashlib.sha256(content).hexdigest()}"}, [mirror], folder)
        if content == b"content":
            files.fetch()
            assert files.path("x").read_bytes() == content
            continue
        with pytest.raises(RunFailed, match="gives another file, of another SHA256"):
            files.fetch()


# ---- mirrors that are bad ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("404", "answers 404 Not Found"),
        ("another file", "gives another file, of another MD5"),
        ("cut", "breaks off"),
        ("silent", "is silent for 0.5 seconds"),
        ("stalls", "is silent for 0.5 seconds"),
        ("nobody", "does not answer"),
    ],
)
@pytest.mark.parametrize("others", [True, False], ids=["another mirror", "no other"])
def test_a_bad_mirror(
    way: str, words: str, others: bool, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one is tried; where there is none, one line says what is missing, and nothing of the file is left."""
    monkeypatch.setattr("metronome.data.fetching._SECONDS", 0.5)
    bad = start(FILES, way, only="" if others else THIRD)
    address = nobody() if way == "nobody" else bad.address
    if others:
        good = start(FILES)
        remote(tmp_path, address, good.address).fetch()
        assert held(tmp_path) == FILES
        assert good.asked == list(FILES)
        assert bad.asked == [FIRST] * (way != "nobody")  # it is not waited for again
        return
    begin = time.monotonic()
    with pytest.raises(RunFailed) as error:
        remote(tmp_path, address).fetch()
    assert time.monotonic() - begin < 5
    left = dict(list(FILES.items())[: 0 if way == "nobody" else 2])
    assert held(tmp_path) == left  # the files before it, whole, and of it nothing
    assert str(error.value) == (
        f"{FIRST if way == 'nobody' else THIRD} cannot be downloaded: {address} {words}; put "
        f"{', '.join(name for name in FILES if name not in left)} into {tmp_path} yourself, or name another mirror: "
        "data.mirrors=[https://...]"
    )


def test_each_mirror_has_its_reason(start: Start, tmp_path: Path) -> None:
    gone, other = start(FILES, "404").address, start(FILES, "another file").address
    with pytest.raises(RunFailed) as error:
        remote(tmp_path, gone, other).fetch()
    assert f"{gone} answers 404 Not Found; {other} gives another file, of another MD5; put" in str(error.value)


@pytest.mark.slow
def test_a_slow_mirror_is_waited_for(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as something comes in each window of time, however many windows that are."""
    monkeypatch.setattr("metronome.data.fetching._SECONDS", 0.5)
    files = dict.fromkeys(FILES, b"some bytes, slowly")
    begin = time.monotonic()
    remote(tmp_path, start(files, "trickles", only=FOURTH).address, files=files).fetch()
    assert time.monotonic() - begin > 1.5
    assert held(tmp_path) == files


# ---- other processes, and those before --------------------------------------------------------------------


def test_several_processes_at_once(start: Start, tmp_path: Path) -> None:
    files = remote(tmp_path / "new", start(FILES).address)
    processes = [fork.Process(target=files.fetch) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert held(tmp_path / "new") == FILES


def test_what_a_killed_download_has_left(start: Start, tmp_path: Path) -> None:
    """A later start removes it, and leaves alone what another process is downloading, and what is not its own."""
    folder, mirror = tmp_path / "folder", start(FILES, "silent")
    killed = fork.Process(target=remote(folder, mirror.address).fetch)
    killed.start()
    try:
        while not mirror.asked:
            assert killed.is_alive()
            time.sleep(0.01)
    finally:
        killed.kill()
        killed.join()
    (left,) = folder.iterdir()
    assert left.name.startswith(f"{FIRST}.")
    assert left.name.endswith(".part")
    old, running = time.time() - 3600, folder / f"{FOURTH}.running.part"
    put(FILES | {"mine.part": b"mine"}, folder)
    put({"half": b"half"}, running)
    for path in (*left.iterdir(), left, running, folder / "mine.part"):
        os.utime(path, (old, old))
    remote(folder, mirror.address).fetch()
    names = {*FILES, "mine.part", running.name}  # the last has a file that was written just now
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_no_folder_that_was_not_there(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    if there:
        folder.mkdir(parents=True)
    with pytest.raises(RunFailed, match="does not answer"):
        remote(folder, nobody()).fetch()
    assert list(tmp_path.rglob("*")) == ([folder.parent, folder] if there else [])


# ---- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [FILES[SECOND][:-1], b"", b"<html>", FILES[FOURTH]],
    ids=["short", "empty", "a page", "another"],
)
def test_a_damaged_file_is_told_and_left_alone(content: bytes, start: Start, tmp_path: Path) -> None:
    put({SECOND: content}, tmp_path)
    mirror = start(FILES)
    with pytest.raises(InputError) as error:
        remote(tmp_path, mirror.address).fetch()
    found, expected = (hashlib.md5(part).hexdigest() for part in (content, FILES[SECOND]))
    assert str(error.value) == (
        f"{tmp_path / SECOND} is damaged, or another file: its MD5 is {found}, and it must be {expected}; "
        "delete it, and it is downloaded anew"
    )
    assert held(tmp_path) == {SECOND: content}
    assert mirror.asked == []


def test_a_file_that_was_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no first.gz; prepare_data\(\) downloads it"):
        remote(tmp_path, nobody()).path(FIRST)


def test_a_folder_that_cannot_be_written_to(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Any:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    with pytest.raises(InputError, match=r"data.folder=.* cannot be written to; give another one"):
        remote(tmp_path, start(FILES).address).fetch()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder, words in (("file", "is a file; give a folder"), ("file/below", "cannot be made: Not a directory; ")):
        with pytest.raises(InputError) as error:
            remote(tmp_path / folder, nobody()).fetch()
        assert f"data.folder={tmp_path / folder} {words}" in str(error.value)


@pytest.mark.parametrize("name", [FOURTH, "fourth"])
@pytest.mark.parametrize("fetches", [True, False])
def test_a_folder_in_the_place_of_a_file(name: str, fetches: bool, tmp_path: Path) -> None:
    put({other: content for other, content in FILES.items() if other != FOURTH}, tmp_path)
    (tmp_path / name).mkdir()
    files = remote(tmp_path, nobody())
    with pytest.raises(InputError) as error:
        files.fetch() if fetches else files.path(FOURTH)
    assert str(error.value) == (
        f"{tmp_path / name} is a folder, and must be a file; move it away, and the file is downloaded"
    )


@pytest.mark.parametrize("folder", ["", None, 5, ["x"]])
def test_folders_that_are_none(folder: Any) -> None:
    with pytest.raises(InputError, match="is not the name of a folder"):
        RemoteFiles({}, KNOWN, folder)


@pytest.mark.parametrize(
    "mirrors", [[], "https://x.org/", ["x.org"], ["ftp://x.org/"], ["file:///etc/"], ["http://"], [5], 5, [None]]
)
def test_mirrors_that_are_none(mirrors: Any) -> None:
    with pytest.raises(InputError) as error:
        RemoteFiles({}, KNOWN, "x", mirrors)
    assert str(error.value) == (
        f"data.mirrors={mirrors!r} is not a list of web addresses; for example data.mirrors=[https://known.org/files/]"
    )


@pytest.mark.parametrize("mirror", ["http://x.org/files?token=a", "https://x.org/files/#top", "http://x.org?"])
def test_mirrors_that_no_name_can_follow(mirror: str) -> None:
    with pytest.raises(InputError, match=r"has an address with \? or #, and the name of a file cannot follow") as error:
        RemoteFiles({}, KNOWN, "x", ["https://x.org/", mirror])
    assert str(error.value).startswith(f"data.mirrors={['https://x.org/', mirror]!r} ")
