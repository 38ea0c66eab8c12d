"""Runs that are stored elsewhere: `storage=`, and the commands that take an address."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PROJECT, Commands, Done
from faulty_storage import Faulty
from short_run import EACH_EPOCH, FIRST, JOB, cut_off, make_whole

import metronome
from metronome.runs.storage.address import place_of
from metronome.runs.storage.manifest import folders_in, newest
from metronome.runs.storage.mirror import Mirror, about_run
from metronome.runs.storage.storing import Store

BUCKET = "storage=faulty://bucket/project"


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("METRONOME_CACHE", str(tmp_path / "cache"))
    Faulty.empty()
    yield
    Faulty.empty()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run that came to its end."""
    return make_whole(tmp_path_factory.mktemp("whole"))


def store(run: Path) -> None:
    place = place_of("faulty://bucket/project") / "digits" / run.name
    Mirror(run, Store(place), about_run).store_now(everything=True)


@pytest.fixture
def stored(whole: Path, tmp_path: Path) -> None:
    """That run in the storage, and on this machine nothing of it."""
    shutil.copytree(whole / "runs", tmp_path / "away")
    store(tmp_path / "away/digits/first")


@pytest.fixture
def stored_half(whole: Path, tmp_path: Path) -> None:
    """The same, cut off after two of three epochs."""
    shutil.copytree(whole / "runs", tmp_path / "away")
    cut_off(tmp_path / "away/digits/first")
    store(tmp_path / "away/digits/first")


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def same(done: Done, run: Path, whole: Path) -> None:
    assert done.code == 0, done.out + done.err
    for name in ("weights_sha256", "metrics", "progress", "plan", "status"):
        assert result(run)[name] == result(whole / FIRST)[name], name


def test_on_another_machine(stored_half: None, whole: Path, commands: Commands) -> None:
    """The run is fetched, goes on bitwise, and is stored; on a third machine there is nothing left to do."""
    done = commands("train", *JOB, *EACH_EPOCH, BUCKET, "resume=auto")
    run = commands.folder / FIRST
    same(done, run, whole)
    assert "goes on    after step 10, from checkpoints/last.ckpt" in done.out
    assert "fetching" in done.out
    assert "stored     in faulty://bucket/project" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert not (run / ".storage").exists() or not list((run / ".storage").glob("[!l]*"))
    shutil.rmtree(commands.folder / "runs")
    done = commands("train", *JOB, *EACH_EPOCH, BUCKET, "resume=auto")
    same(done, run, whole)
    assert "finished before: runs/digits/first/result.json" in done.out
    assert (run / "checkpoints/best.ckpt").is_file()


@pytest.mark.slow
def test_the_last_run_is_one_that_is_stored(stored_half: None, whole: Path, commands: Commands) -> None:
    """Other values than before: ckpt_path=last finds it too."""
    done = commands("train", *JOB, *EACH_EPOCH, BUCKET, "ckpt_path=last", "name=other")
    same(done, commands.folder / FIRST, whole)


@pytest.mark.slow
def test_the_newer_one_goes_on(stored_half: None, whole: Path, commands: Commands) -> None:
    """What is here is of the first epoch, what is stored of the second, or the other way round."""
    shutil.copytree(whole / "runs", commands.folder / "runs")
    run = commands.folder / FIRST
    shutil.copy2(run / "checkpoints/epochs/step=5.ckpt", run / "checkpoints/early.ckpt")
    cut_off(run)
    (run / "checkpoints/early.ckpt").replace(run / "checkpoints/last.ckpt")
    done = commands("train", *JOB, *EACH_EPOCH, BUCKET, "resume=auto")
    assert "after step 10, from" in done.out
    same(done, run, whole)


def test_by_address(stored: None, whole: Path, commands: Commands) -> None:
    """Each command that takes a checkpoint or a run takes its address."""
    address = f"{BUCKET.removeprefix('storage=')}/digits/first"
    best = f"{address}/checkpoints/best.ckpt"
    expected = result(whole / FIRST)["metrics"]
    assert json.loads(commands("evaluate", best).out)["test/acc"] == pytest.approx(expected["test/acc"])
    done = commands("predict", best)
    assert done.code == 0, done.err
    assert (commands.folder / "runs/digits/first/predictions/best_test.csv").is_file()
    assert type(metronome.load(best)).__name__ == "Classifier"
    assert commands("advise", address).code == 0
    done = commands("advise", "faulty://bucket/nothing")
    assert (done.code, "no run is stored in faulty://bucket/nothing" in done.err) == (2, True)


@pytest.mark.slow
def test_report_by_address(stored: None, commands: Commands, undrawn: None) -> None:
    done = commands("report", "faulty://bucket/project/digits")
    assert (done.code, done.out.strip()) == (0, "report     runs/report_digits/report.html"), done.err


@pytest.mark.slow
def test_a_new_run_from_the_checkpoint_at_an_address(stored: None, whole: Path, commands: Commands) -> None:
    """Its curves come along."""
    last = "faulty://bucket/project/digits/first/checkpoints/epochs/step=10.ckpt"
    done = commands("train", *JOB, *EACH_EPOCH, f"ckpt_path={last}", "hydra.run.dir=runs/digits/second")
    assert done.code == 0, done.err
    assert "goes on    after step 10, from" in done.out
    assert result(done.run)["weights_sha256"] == result(whole / FIRST)["weights_sha256"]
    names = {path.name for path in (whole / FIRST).glob("*tfevents*.0")}
    assert names <= {path.name for path in done.run.glob("*tfevents*")}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("storage=xyz://bucket/a", "storage=xyz://bucket/a: no file system is called xyz"),
        ("storage=s3:///project", "storage=s3:///project names no bucket"),
        ("storage=runs", "storage=runs is where the run itself lies"),
        ("storage=5", "storage=5 is no address"),
        ("storage=file:///proc/nothing/here", "storage=file:///proc/nothing/here cannot be written to: No such file"),
        (f"{BUCKET} hydra.run.dir={FIRST}", "faulty://bucket/project/digits/first holds a run already; go on with it"),
        ("resume=auto storage=s3:///project", "storage=s3:///project names no bucket"),
        ("ckpt_path=faulty://bucket/a.ckpt", "faulty://bucket/a.ckpt is not there"),
        ("ckpt_path=faulty://bucket/project/digits/first/checkpoints/a.ckpt", "holds no checkpoints/a.ckpt; there is:"),
    ],
)
@pytest.mark.slow
def test_before_a_run_begins(words: str, error: str, stored_half: None, commands: Commands) -> None:
    done = commands("train", *JOB, *words.split())
    assert (done.code, done.runs) == (2, [])
    assert error in " ".join(done.err.split()), done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert "epoch" not in done.out


def test_a_storage_that_refuses_all(commands: Commands) -> None:
    Faulty.fail_at(1, stays=True)
    done = commands("train", *JOB, BUCKET)
    assert done.code == 2
    assert "storage=faulty://bucket/project cannot be written to: the storage fails at" in " ".join(done.err.split())


@pytest.mark.slow
def test_a_storage_that_is_lost(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training goes on and has its result; the command fails, and the same with resume=auto stores it."""
    monkeypatch.setattr("metronome.runs.storage.mirror._FIRST_WAIT", 0.0)
    monkeypatch.setattr(Mirror.__init__, "__defaults__", (0.001,))
    Faulty.fail_at(12, stays=True)
    done = commands("train", *JOB, BUCKET)
    assert done.code == 1
    assert done.result["status"] == "finished"
    assert "the last state of the run could not be stored in faulty://bucket/project" in " ".join(done.err.split())
    Faulty.fail_at(None)
    done = commands("train", *JOB, BUCKET, "resume=auto")
    assert done.code == 0, done.err
    manifest = newest(place_of("faulty://bucket/project") / "digits" / done.run.name)
    assert manifest is not None
    assert manifest.about["status"] == "finished"
    assert {"result.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= set(manifest.files)


@pytest.mark.slow
def test_a_sweep_on_another_machine(commands: Commands) -> None:
    """What it is and each of its jobs are stored; there, nothing is made again."""
    sweep = ("-m", *JOB, "seed=0,1", BUCKET)
    done = commands("train", *sweep)
    assert done.code == 0, done.err
    before = [job["weights_sha256"] for job in done.results]
    (name,) = {path.parent.name for path in done.runs}
    assert sorted(folders_in(place_of("faulty://bucket/project/digits"))) == [name, f"{name}/seed=0", f"{name}/seed=1"]
    shutil.rmtree(commands.folder / "runs")
    place = place_of("faulty://bucket/project") / "digits" / name / "seed=1"
    place.fs.rm(place.path, recursive=True)  # as if it had not come so far
    done = commands("train", *sweep, "resume=auto")
    assert done.code == 0, done.err
    assert [job["weights_sha256"] for job in done.results] == before
    assert ["before" in job for job in done.jobs] == [True, False], done.out


# ---- killed in the middle of an upload ------------------------------------------------------------------

KILLED = """
import os, runpy, signal, sys
from pathlib import Path
import fsspec
from fsspec.implementations.local import LocalFileSystem

class Killed(LocalFileSystem):
    protocol, left = ("killed", "file", "local"), int(sys.argv.pop(1))

    @classmethod
    def _strip_protocol(cls, path, **options):
        return LocalFileSystem._strip_protocol(str(path).replace("killed://", "file://", 1), **options)

    def write(self, path, data):
        Killed.left -= 1
        if Killed.left == 0:
            Path(path).write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        Path(path).write_bytes(data)

    def pipe_file(self, path, value, **options):
        self.write(self._strip_protocol(path), value)

    def put_file(self, lpath, rpath, **options):
        self.write(self._strip_protocol(rpath), Path(lpath).read_bytes())

fsspec.register_implementation("killed", Killed, clobber=True)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("write", [3, 9, 15])
def test_killed_in_the_middle_of_an_upload(write: int, tmp_path: Path, whole: Path) -> None:
    """SIGKILL when half of the n-th file is there; elsewhere the run goes on, and ends with the same weights."""
    job = (*JOB, *EACH_EPOCH, "+callbacks.slowly={_target_: slowly.Slowly}")
    storage = f"storage=killed://{tmp_path}/bucket"
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    script = [sys.executable, "-c", KILLED]
    environment = os.environ | {"PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT / 'tests/support'}"}
    train = str(PROJECT / "scripts/train.py")
    first = subprocess.run([*script, str(write), train, *job, storage], cwd=one, env=environment, timeout=300)
    assert first.returncode == -signal.SIGKILL
    shutil.rmtree(one)
    again = subprocess.run(
        [*script, "0", train, *job, storage, "resume=auto"], cwd=two, env=environment, timeout=300, capture_output=True
    )
    assert again.returncode == 0, again.stderr
    (file,) = two.glob("runs/digits/*/result.json")
    for name in ("weights_sha256", "metrics", "progress"):
        assert result(file.parent)[name] == result(whole / FIRST)[name], name


@pytest.mark.slow
def test_a_path_is_said_as_the_folder_that_it_is(commands: Commands) -> None:
    """Of `storage=bucket/project`, where s3:// was forgotten, the first line shows what comes of it."""
    done = commands("train", *JOB, "storage=bucket/project")
    assert done.code == 0, done.err
    assert f"storage {commands.folder.resolve() / 'bucket/project'}" in " ".join(done.out.split())
