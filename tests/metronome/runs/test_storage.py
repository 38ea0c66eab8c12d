"""A run stored elsewhere: what can be read there is always a whole state, the older or the newer one."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import wait_for
from faulty_storage import WAYS, Faulty

from metronome.runs.storage.address import Place, is_address, place_of
from metronome.runs.storage.cache import at_hand, runs_at_hand
from metronome.runs.storage.fetching import Damaged, bring
from metronome.runs.storage.found import is_newer, name_in_storage, runs_stored
from metronome.runs.storage.manifest import Entry, Manifest, newest, stored_name
from metronome.runs.storage.mirror import Mirror, about_run
from metronome.runs.storage.storing import Store, TakenOver
from metronome.runs.storage.taking import Shelf, look
from metronome.units import InputError, RunFailed

A = {"config.yaml": "experiment: digits\noverrides: [seed=1]\n", "checkpoints/best.ckpt": "best 1",
     "checkpoints/last.ckpt": "last 1", "train.log": "one\n"}  # fmt: skip
# A newer last, another best under another name, a sharded checkpoint, a longer log.
B = {"config.yaml": A["config.yaml"], "checkpoints/step=2.ckpt": "best 2", "checkpoints/last.ckpt": "last 2, longer",
     "checkpoints/sharded.ckpt/__0_0.distcp": "shard 0", "checkpoints/sharded.ckpt/.metadata": "of torch",
     "train.log": "one\ntwo\n", "result.json": '{"status": "finished"}'}  # fmt: skip


def write(folder: Path, files: dict[str, str]) -> Path:
    """A run whose folder holds these, each put in its place whole; what it held before is gone."""
    for path in [path for path in folder.rglob("*") if path.is_file() and ".storage" not in path.parts]:
        path.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.part")
        aside.write_text(text)
        aside.replace(path)
    return folder


def seen(files: dict[str, str]) -> dict[str, str]:
    """Without what is hidden, which is not stored but for a checkpoint's."""
    return {name: text for name, text in files.items() if not Path(name).name.startswith(".") or ".ckpt/" in name}


def read(place: Place, folder: Path) -> dict[str, str] | None:
    """What another machine finds."""
    if bring(place, folder) is None:
        return None
    return {name: (folder / name).read_text() for name in look(folder, everything=True)}


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pulls the plug here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["memory", "file", "faulty"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    Faulty.empty()
    where = f"file://{tmp_path}/bucket" if request.param == "file" else f"{request.param}://bucket{tmp_path}"
    return place_of(where) / "digits/run"


@pytest.fixture
def faulty() -> Iterator[Place]:
    Faulty.empty()
    yield place_of("faulty://bucket/digits/run")
    Faulty.empty()


def stored_now(place: Place, folder: Path) -> None:
    Mirror(folder, Store(place), about_run).store_now(everything=True)


def test_there_and_back(place: Place, tmp_path: Path) -> None:
    """On any file system; a newer state leaves nothing of the older one."""
    here = write(tmp_path / "run", A)
    mirror = Mirror(here, Store(place), about_run)
    mirror.store_now(everything=True)
    assert read(place, tmp_path / "other") == A
    write(here, B)
    mirror.store_now(everything=True)
    found = read(place, tmp_path / "another")
    assert found == seen(B)
    for name in seen(B):
        assert (tmp_path / "another" / name).stat().st_mtime_ns == (here / name).stat().st_mtime_ns
    manifest = newest(place)
    assert manifest is not None
    assert manifest.about == {"overrides": ["seed=1"], "status": "finished"}
    assert sorted(place.names()) == sorted([*(e.stored for e in manifest.files.values()), "manifest-00000002.json"])
    assert not list(here.glob(".storage/out/*"))


@pytest.mark.parametrize("how", [WAYS[0], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])])
def test_each_operation_that_fails_leaves_a_whole_state(how: str, faulty: Place, tmp_path: Path) -> None:
    """The n-th operation fails, for each n: what is read is A or B; the next try stores B, and takes away the rest."""
    here, ends, number = write(tmp_path / "run", A), [], 0
    while True:
        number += 1
        Faulty.empty()
        write(here, A)
        mirror = Mirror(here, Store(faulty), about_run)
        mirror.store_now(everything=True)
        write(here, B)
        Faulty.fail_at(number, how)
        with contextlib.suppress(OSError):
            mirror.store_now(everything=True)
        was_met = Faulty.done >= number
        Faulty.fail_at(None)
        found = read(faulty, tmp_path / f"{number}")
        assert found in (A, seen(B)), number
        ends.append(found == A)
        again = Mirror(here, Store(faulty), about_run) if number % 2 else mirror  # a new start, or the same
        again.store_now(everything=True)
        assert read(faulty, tmp_path / f"{number} again") == seen(B)
        manifest = newest(faulty)
        assert manifest is not None
        assert len(faulty.names()) == len(manifest.files) + 1, number
        if not was_met:
            break
    assert number > 15
    assert True in ends
    assert ends[-1] is False


def test_what_a_killed_process_has_left_goes(faulty: Place, tmp_path: Path) -> None:
    here = write(tmp_path / "run", A)
    stored_now(faulty, here)
    write(here, B)
    Faulty.fail_at(5, "half", stays=True)  # from here on nothing is done any more
    with pytest.raises(OSError, match="storage fails"):
        stored_now(faulty, here)
    Faulty.fail_at(None)
    assert read(faulty, tmp_path / "other") == A
    write(here, B | {"checkpoints/last.ckpt": "last 3"})
    stored_now(faulty, here)
    manifest = newest(faulty)
    assert manifest is not None
    assert len(faulty.names()) == len(manifest.files) + 1


def test_a_manifest_that_is_cut_off_is_passed_over(faulty: Place, tmp_path: Path) -> None:
    stored_now(faulty, write(tmp_path / "run", A))
    whole = newest(faulty)
    assert whole is not None
    faulty.fs.pipe_file(f"{faulty.path}/manifest-00000009.json", whole.as_bytes()[:-30])
    assert newest(faulty) == whole
    assert Store(faulty)._next_number() == 10


def test_a_newer_state_while_one_is_fetched(faulty: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the older one go in the middle of it."""
    here = write(tmp_path / "run", A)
    stored_now(faulty, here)
    opened = []

    def open_and_store(self: Faulty, path: str, *arguments: object, **options: object) -> object:
        opened.append(path)
        if len(opened) == 2:
            stored_now(faulty, write(here, B))
        return super(Faulty, self).open(path, *arguments, **options)  # pyright: ignore

    monkeypatch.setattr(Faulty, "open", open_and_store)
    assert read(faulty, tmp_path / "other") == seen(B)


def test_damaged_bytes_are_told_and_replace_nothing(faulty: Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    here = write(tmp_path / "run", A)
    stored_now(faulty, here)
    read(faulty, other)
    stored_now(faulty, write(here, B))
    manifest = newest(faulty)
    assert manifest is not None
    faulty.fs.pipe_file(f"{faulty.path}/{manifest.files['checkpoints/last.ckpt'].stored}", b"last 2, LONGER")
    with pytest.raises(Damaged, match=r"last-.*ckpt is damaged"):
        bring(faulty, other)
    assert {name: (other / name).read_text() for name in look(other, everything=True)} == A


@pytest.mark.parametrize("name", ["../a.ckpt", "/etc/a.ckpt", "a/../../b"])
def test_no_name_leads_out_of_the_folder(name: str, faulty: Place, tmp_path: Path) -> None:
    for files in ({name: Entry("a", 1, "0", 1)}, {"a": Entry(name, 1, "0", 1)}):
        faulty.fs.pipe_file(f"{faulty.path}/manifest-00000001.json", Manifest(1, "w", {}, files).as_bytes())
        with pytest.raises(InputError, match="outside of its folder"):
            bring(faulty, tmp_path / "other")


def test_two_that_store_the_same_run(faulty: Place, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", A), write(tmp_path / "two", A)
    first = Mirror(one, Store(faulty), about_run)
    first.store_now()
    second = Mirror(two, Store(faulty), about_run)
    write(two, B)
    second.store_now(everything=True)
    write(one, A | {"checkpoints/last.ckpt": "of the first"})
    with pytest.raises(TakenOver, match="stores no more"):
        first.store_now()
    assert read(faulty, tmp_path / "other") == seen(B)


# ---- the folder of the run ------------------------------------------------------------------------------


def test_files_are_kept_as_they_were(tmp_path: Path) -> None:
    here = write(tmp_path / "run", A)
    _, taken = Shelf(here).take(False, {})
    write(here, B)
    with open(here / "train.log", "a") as log:
        log.write("three\n")
    assert {name: file.path.read_text() for name, file in taken.items()} == A
    Shelf(here).take(False, {})  # what was kept aside goes, and with it nothing of the run
    assert {name: (here / name).read_text() for name in seen(B)} == seen(B) | {"train.log": "one\ntwo\nthree\n"}


def test_a_checkpoint_written_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are taken again: the last knows of the best that was written before it."""
    here, link, links = write(tmp_path / "run", A), os.link, []

    def link_and_write(*names: object) -> None:
        links.append(names)
        link(*names)  # pyright: ignore
        if len(links) == 1:
            write(here, B)

    monkeypatch.setattr(os, "link", link_and_write)
    _, taken = Shelf(here).take(True, {})
    assert {name: file.path.read_text() for name, file in taken.items()} == seen(B)


def test_without_hard_links(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    stored_now(place, write(tmp_path / "run", B))
    assert read(place, tmp_path / "other") == seen(B)


# ---- the thread -------------------------------------------------------------------------------------------


class Gate(Faulty):
    """Uploads of last.ckpt wait at it."""

    protocol = "gate"
    opened = threading.Event()
    waits = threading.Event()

    def put_file(self, lpath: object, rpath: str, *arguments: object, **options: object) -> object:
        if "last" in str(rpath):
            type(self).waits.set()
            assert type(self).opened.wait(60)
        return super().put_file(lpath, rpath, *arguments, **options)


def test_the_newest_wins(faulty: Place, tmp_path: Path) -> None:
    """While one state is on its way, three are written; of them the last is stored, and nobody has waited."""
    here = write(tmp_path / "run", A)
    place = Place(Gate(), faulty.path, faulty.address)
    Gate.opened.clear()
    mirror = Mirror(here, Store(place), about_run)
    mirror.start()
    assert Gate.waits.wait(60)
    for number in (2, 3, 4):
        write(here, A | {"checkpoints/last.ckpt": f"last {number}"})
    said: list[int] = []
    Gate.opened.set()
    assert mirror.finish(said.append) is None
    assert said
    found = read(faulty, tmp_path / "other")
    assert found == A | {"checkpoints/last.ckpt": "last 4"}
    assert Faulty.calls.count("put_file") <= len(A) + 2  # the first state, and what is new in the last


def test_failures_are_told_once_and_tried_again(
    faulty: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    here = write(tmp_path / "run", A)
    mirror = Mirror(here, Store(faulty), about_run, wait=0.001)
    Faulty.fail_at(1, stays=True)
    mirror.start()
    wait_for(lambda: Faulty.calls.count("put_file") > 3)
    Faulty.fail_at(None)
    wait_for(lambda: "stored again" in caplog.text)
    assert mirror.finish(lambda _: None) is None
    assert read(faulty, tmp_path / "other") == A
    assert caplog.text.count("nothing can be stored: the storage fails") == 1


def test_the_last_state_cannot_be_stored(faulty: Place, tmp_path: Path) -> None:
    here = write(tmp_path / "run", A)
    mirror = Mirror(here, Store(faulty), about_run, wait=0.001)
    mirror.store_now(everything=True)
    write(here, B)
    Faulty.fail_at(1, stays=True)
    mirror.start()
    assert "storage fails" in str(mirror.finish(lambda _: None))
    Faulty.fail_at(None)
    assert read(faulty, tmp_path / "other") == A


# ---- which is newer ---------------------------------------------------------------------------------------


def test_which_is_newer(faulty: Place, tmp_path: Path) -> None:
    here = write(tmp_path / "runs/digits/run", A)
    times = {name: 10 for name in A}

    def set_times(last: int) -> None:
        for name in look(here, everything=True):
            os.utime(here / name, ns=(1, last if "last" in name else times.get(name, 1)))

    set_times(100)
    stored_now(faulty, here)
    (run,) = runs_stored(place_of("faulty://bucket"), here.parent)
    assert (run.folder, run.overrides, run.status, run.started) == (here, ["seed=1"], None, 10)
    assert run.checkpoints == {here / "checkpoints/best.ckpt": 10, here / "checkpoints/last.ckpt": 100}
    manifest = newest(faulty)
    assert manifest is not None
    assert is_newer(manifest, tmp_path / "nothing")
    assert not is_newer(manifest, here)
    set_times(99)
    assert is_newer(manifest, here)
    set_times(101)
    assert not is_newer(manifest, here)
    set_times(100)
    (here / "result.json").write_text('{"status": "finished"}')
    stored_now(faulty, here)
    (here / "result.json").unlink()
    manifest = newest(faulty)
    assert manifest is not None
    assert is_newer(manifest, here)


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert name_in_storage(Path("runs/digits/sweep_a/seed=1")) == "digits/sweep_a/seed=1"
    assert name_in_storage(tmp_path / "runs/digits") == "digits"
    assert name_in_storage(tmp_path / "elsewhere/a") == "a"
    assert stored_name("tfevents.1.host.0", "0123456789abcdef") == "tfevents.1.host-0123456789ab.0"


# ---- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("xyz://bucket/a", "storage=xyz://bucket/a: no file system is called xyz; write it such as s3://"),
        ("s3:///project", "storage=s3:///project names no bucket"),
        ("s3://", "storage=s3:// names no bucket"),
        ("memory://", "storage=memory:// names no bucket"),
        ("file://", "storage=file:// names no folder"),
        ("", "storage= names no folder"),
        ("ftp://me:secret@host/a", "storage=ftp://...@host/a has a password in it"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        place_of(address, "storage=")
    assert str(error.value).startswith(words)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "address", "package"),
    [("s3fs", "s3://b/a", "s3fs"), ("gcsfs", "gs://b/a", "gcsfs"), ("paramiko", "sftp://h/a", "paramiko"),
     ("adlfs", "az://b/a", "adlfs")],
)  # fmt: skip
def test_a_package_that_is_not_there(module: str, address: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"needs the package {package}, .*: pip install {package}$"):
        place_of(address)


def test_what_is_an_address() -> None:
    for text in ("s3://a", "simplecache::s3://a", "file:///a", "abfs://a@b/c"):
        assert is_address(text)
    for text in ("runs/a", "/a//b", "last", 5, Path("a"), "C:\\runs\\a", None):
        assert not is_address(text)


# ---- by address ---------------------------------------------------------------------------------------------


@pytest.fixture
def cached(faulty: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("METRONOME_CACHE", str(tmp_path / "cache"))
    stored_now(faulty, write(tmp_path / "run", B))
    return faulty


def test_a_checkpoint_by_its_address(cached: Place, tmp_path: Path) -> None:
    path = at_hand(f"{cached.address}/checkpoints/last.ckpt")
    assert path.read_text() == "last 2, longer"
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]  # and no more than was asked for
    opened = Faulty.calls.count("cat_file")
    assert at_hand(f"{cached.address}/checkpoints/last.ckpt") == path
    assert Faulty.calls.count("cat_file") > opened  # the manifest alone
    path.write_text("changed in the cache")
    assert at_hand(f"{cached.address}/checkpoints/last.ckpt").read_text() == "last 2, longer"
    assert at_hand(f"{cached.address}/checkpoints/sharded.ckpt", with_run=True).is_dir()
    assert (path.parents[1] / "result.json").is_file()
    assert at_hand("runs/a.ckpt") == Path("runs/a.ckpt")


@pytest.mark.parametrize(
    ("name", "words"),
    [("checkpoints/other.ckpt", "holds no checkpoints/other.ckpt; there is: checkpoints/last.ckpt,"),
     ("", "is the folder of a run")],
)  # fmt: skip
def test_what_is_not_at_an_address(name: str, words: str, cached: Place) -> None:
    with pytest.raises(InputError, match=words):
        at_hand(f"{cached.address}/{name}".rstrip("/"))


def test_a_file_that_no_run_has_stored(cached: Place) -> None:
    cached.fs.pipe_file("/elsewhere/a.ckpt", b"plain")
    assert at_hand("faulty://elsewhere/a.ckpt").read_text() == "plain"
    with pytest.raises(InputError, match="is not there"):
        at_hand("faulty://elsewhere/b.ckpt")
    Faulty.fail_at(1, stays=True)
    with pytest.raises(RunFailed, match=r"reading faulty://elsewhere/a.ckpt: the storage fails"):
        at_hand("faulty://elsewhere/a.ckpt")


def test_runs_by_their_address(cached: Place, tmp_path: Path) -> None:
    folder = runs_at_hand("faulty://bucket/digits")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*.*") if path.is_file()) == [
        "run/config.yaml", "run/result.json", "run/train.log",
    ]  # fmt: skip
    assert (runs_at_hand("faulty://bucket/digits/run") / "config.yaml").is_file()
    stored_now(place_of("faulty://bucket/digits/two"), tmp_path / "run")
    cached.fs.rm(cached.path, recursive=True)
    folder = runs_at_hand("faulty://bucket/digits")
    assert [path.parent.name for path in folder.rglob("config.yaml")] == ["two"]
    with pytest.raises(InputError, match="no run is stored in"):
        runs_at_hand("faulty://bucket/nothing")
