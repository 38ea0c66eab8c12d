"""A run or sweep that is started again with the same command: what is done stays, what was cut off goes on."""

import json
import shutil
from pathlib import Path

import pytest
from commands import Commands, Done, a_process_in, wait_for
from forked import Forked

BASE = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "logger=none")
LINEAR = (*BASE, "data.batch_size=250")
TWO = (*BASE, "resume=auto", "-m", "data.batch_size=250,500")
THREE = (*BASE, "resume=auto", "-m", "data.batch_size=100,250,500")


def sweeps(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("**/multirun.yaml"))


def times(done: Done) -> dict[str, int]:
    """When each result was written."""
    return {run.name: (run / "result.json").stat().st_mtime_ns for run in done.runs}


def digests(done: Done) -> dict[str, str]:
    return {run.name: result["weights_sha256"] for run, result in zip(done.runs, done.results, strict=True)}


def made_before(done: Done) -> int:
    """How many jobs were finished before this start."""
    return sum(job.endswith(" finished before") for job in done.jobs)


def cut_off(run: Path) -> None:
    """Leave a run as a kill in its last moment does: checkpoints, and half a result."""
    result = run / "result.json"
    result.write_text(result.read_text()[:100])


# ---- sweeps -------------------------------------------------------------------------------------------


def test_a_second_start_of_a_whole_sweep_trains_nothing(commands: Commands) -> None:
    first = commands("train", *TWO)
    assert first.code == 0, first.err
    before = times(first)
    again = commands("train", *TWO)
    assert again.code == 0, again.err
    assert times(again) == before
    assert len(sweeps(commands.folder)) == 1
    assert len(again.jobs) == 2
    for number, line, theirs in zip("12", again.jobs, first.jobs, strict=True):
        assert line.startswith(f"{number}/2 data.batch_size=")
        assert line.endswith(" finished before")
        assert line.split()[:6] == theirs.split()[:6]  # the same values
    assert "\njobs       2 finished before\n" in again.out
    assert again.out.splitlines()[-3:] == first.out.splitlines()[-3:], "the best is the same"


def test_what_is_missing_is_made_and_what_was_cut_off_goes_on(commands: Commands) -> None:
    first = commands("train", *THREE)
    weights, before = digests(first), times(first)
    gone, cut = first.runs[0], first.runs[2]
    shutil.rmtree(gone)
    cut_off(cut)
    (cut / "checkpoints/half.ckpt.part").write_text("half")
    again = commands("train", *THREE)
    assert again.code == 0, again.err
    assert sweeps(commands.folder) == [gone.parent]
    assert [line.endswith(" before") for line in again.jobs].count(True) == 1
    assert "\njobs       2 finished, 1 finished before\n" in again.out
    after = times(again)
    assert {name for name in before if before[name] != after[name]} == {gone.name, cut.name}
    results = {run.name: result for run, result in zip(again.runs, again.results, strict=True)}
    assert results[cut.name]["resumed_from"] == {"checkpoint": "checkpoints/last.ckpt", "step": 2}
    assert results[gone.name]["resumed_from"] is None
    assert digests(again) == weights
    assert not list(cut.rglob("*.part"))


@pytest.mark.slow
def test_a_job_that_failed_is_told_again_and_tried_again_with_retry(commands: Commands) -> None:
    sweep = (*BASE, "-m", "data.batch_size=5000,500")
    first = commands("train", *sweep, "resume=auto")
    assert first.code == 1
    before = times(first)
    again = commands("train", *sweep, "resume=auto")
    assert again.code == 1
    assert times(again) == before
    assert len(again.jobs) == 2
    assert "1/2 data.batch_size=5000 failed before: data.batch_size=5000 is larger than the 1,000" in again.jobs[0]
    assert "\njobs       1 finished before, 1 failed before\n" in again.out
    retried = commands("train", *sweep, "resume=retry")
    assert retried.code == 1
    assert len(sweeps(commands.folder)) == 1
    assert [" before" in line for line in retried.jobs] == [False, True]
    assert "1/2 data.batch_size=5000 failed: data.batch_size=5000 is larger" in retried.jobs[0]
    assert "\njobs       1 finished before, 1 failed\n" in retried.out
    assert {name: written for name, written in times(retried).items() if "5000" not in name} == {
        name: written for name, written in before.items() if "5000" not in name
    }
    assert "Traceback" not in again.out + again.err + retried.out + retried.err


@pytest.mark.slow
def test_which_sweep_goes_on(commands: Commands) -> None:
    sweep = (*BASE, "data.batch_size=full")
    first = commands("train", "-m", *sweep, "seed=0")
    (folder,) = sweeps(commands.folder)
    # The same words in another order are the same sweep, however the first was started.
    again = commands("train", "resume=auto", "seed=0", *reversed(sweep), "-m")
    assert (again.code, made_before(again), digests(again)) == (0, 1, digests(first))
    assert sweeps(commands.folder) == [folder]
    # Without resume, or with other values, it is another one.
    new = commands("train", "-m", *sweep, "seed=0")
    assert (new.code, made_before(new), len(sweeps(commands.folder))) == (0, 0, 2)
    other = commands("train", "-m", *sweep, "seed=0,1", "resume=auto")
    assert (other.code, made_before(other), len(sweeps(commands.folder))) == (0, 0, 3)


@pytest.mark.slow
def test_a_sweep_whose_values_are_in_a_file(commands: Commands) -> None:
    study = commands.folder / "conf/study/mine.yaml"
    study.parent.mkdir(parents=True)
    command = ("--config-dir", "conf", *LINEAR, "+study=mine", "resume=auto")
    found = []
    for seeds in ("0", "0", "1"):
        study.write_text(f"# @package _global_\nhydra: {{mode: MULTIRUN, sweeper: {{params: {{seed: '{seeds}'}}}}}}")
        done = commands("train", *command)
        assert done.code == 0, done.err
        found.append((len(done.jobs), made_before(done), len(sweeps(commands.folder))))
    assert found == [(1, 0, 1), (1, 1, 1), (1, 0, 2)]


@pytest.mark.slow
def test_a_folder_of_ones_own(commands: Commands) -> None:
    sweep = (*LINEAR, "-m", "seed=0,1", "hydra.sweep.dir=mine")
    results = commands.folder / "mine"
    assert commands("train", *sweep, "resume=auto").code == 0
    (cut, _) = sorted(results.glob("*/result.json"))
    cut_off(cut.parent)
    again = commands("train", *sweep, "resume=auto")
    assert (again.code, made_before(again)) == (0, 1)
    assert json.loads(cut.read_text())["resumed_from"]["step"] == 4
    assert sweeps(commands.folder) == [results]
    # Without resume nothing there is touched.
    before = cut.stat().st_mtime_ns
    refused = commands("train", *sweep)
    assert refused.code == 1
    assert all(" failed: the folder mine/" in job for job in refused.jobs)
    assert all("holds a run already; give another one, or go on with it: resume=auto" in job for job in refused.jobs)
    assert "\njobs       2 failed\n" in refused.out
    assert "best of" not in refused.out, "nothing was run"
    assert "Traceback" not in refused.out + refused.err
    assert cut.stat().st_mtime_ns == before
    assert json.loads(cut.read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_job_in_the_folder_of_a_run_of_other_values(commands: Commands) -> None:
    """Folders may be called by number."""
    folders = ("hydra.sweep.dir=mine", "hydra.sweep.subdir=job_${hydra:job.num}")
    options = ("trainer=cpu", "trainer.max_epochs=1", "logger=none", "-m", "seed=0,1", *folders)
    assert commands("train", "+experiment=linear", *options, "resume=auto").code == 0
    (commands.folder / "mine/job_1").rename(commands.folder / "away")
    done = commands("train", "+experiment=digits", *options, "resume=auto")
    assert done.code == 1
    first, second = done.jobs
    assert first.startswith("1/2 seed=0 failed: the folder mine/job_0 holds")
    assert "holds a run of other values (+experiment=linear, " in first
    assert second.startswith("2/2 seed=1 val/loss")
    assert "Traceback" not in done.out + done.err


@pytest.mark.slow
def test_a_finished_job_of_another_configuration(commands: Commands) -> None:
    """The overrides are the same, but a file of the configuration has changed since."""
    first = commands("train", *TWO)
    config = first.runs[1] / "config.yaml"
    config.write_text(config.read_text().replace("noise: 0.1", "noise: 0.2"))
    done = commands("train", *TWO)
    assert done.code == 1
    changed = "is finished, with data.noise=0.2, which is 0.1 now; begin anew with resume=null, or put it back"
    assert changed in done.jobs[1]
    assert made_before(done) == 1


@pytest.mark.slow
def test_a_job_that_another_process_works_at(commands: Commands) -> None:
    first = commands("train", *TWO)
    run = first.runs[0]
    cut_off(run)
    with a_process_in(run):
        done = commands("train", *TWO)
    assert done.code == 1
    assert len(done.jobs) == 2
    busy = f"1/2 data.batch_size=250 failed: another process works in the folder runs/linear/{run.parent.name}"
    assert busy in done.jobs[0]
    assert "wait for it, or stop it" in done.jobs[0]
    assert made_before(done) == 1
    assert "Traceback" not in done.out + done.err
    done = commands("train", *TWO)  # it has ended, and left no trace
    assert (done.code, made_before(done)) == (0, 1)


@pytest.mark.slow
def test_a_sweep_that_slurm_starts_again(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = (*LINEAR, "-m", "seed=0,1")
    first = commands("train", *sweep)
    before = times(first)
    cut_off(first.runs[1])
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = commands("train", *sweep)
    assert (again.code, made_before(again)) == (0, 1)
    assert len(sweeps(commands.folder)) == 1
    changed = [name for name, written in times(again).items() if written != before[name]]
    assert changed == [first.runs[1].name]


def test_a_sweep_that_was_killed(commands: Commands) -> None:
    """In the middle of its second job of three; the same command makes of it what an undisturbed one is."""
    sweep = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=10", "-m", "seed=0,1,2", "data.batch_size=50")
    with Forked(commands.folder, "train", *sweep, "hydra.sweep.dir=killed", "resume=auto") as killed:
        wait_for(
            lambda: list(commands.folder.glob("killed/*seed=1*/checkpoints/last.ckpt")) or killed.poll() is not None
        )
        killed.kill()
    results = sorted((commands.folder / "killed").glob("*/result.json"))
    assert len(results) == 1, "the kill came too late"
    again = commands("train", *sweep, "hydra.sweep.dir=killed", "resume=auto")
    assert (again.code, made_before(again)) == (0, 1), again.err
    assert commands("train", *sweep, "hydra.sweep.dir=whole").code == 0

    def found(folder: str) -> dict[str, dict]:
        files = sorted((commands.folder / folder).glob("*/result.json"))
        return {file.parent.name: json.loads(file.read_text()) for file in files}

    ours, whole = found("killed"), found("whole")
    assert len(ours) == 3
    resumed = [result["resumed_from"] is not None for result in ours.values()]
    assert resumed == [False, True, False]
    for key in ("weights_sha256", "metrics", "best", "progress"):
        assert {name: r[key] for name, r in ours.items()} == {name: r[key] for name, r in whole.items()}


# ---- one run ------------------------------------------------------------------------------------------


def test_a_run_goes_on_if_it_has_not_finished(commands: Commands) -> None:
    whole = commands("train", *LINEAR, "resume=auto")
    run, weights = whole.run, whole.result["weights_sha256"]
    cut_off(run)
    again = commands("train", "resume=auto", *reversed(LINEAR))
    assert (again.code, again.run) == (0, run)
    assert again.result["resumed_from"] == {"checkpoint": "checkpoints/last.ckpt", "step": 4}
    assert again.result["weights_sha256"] == weights
    cut_off(run)
    other = commands("train", *LINEAR, "seed=1", "resume=auto")
    assert other.code == 0
    assert len(list(commands.folder.glob("runs/linear/*"))) == 2
    plain = commands("train", *LINEAR)
    assert plain.code == 0
    assert len(list(commands.folder.glob("runs/linear/*"))) == 3


def test_a_run_with_a_budget_of_its_own_goes_on_and_is_then_finished(commands: Commands) -> None:
    """A budget takes the place of the limits in the files; what is kept of the configuration is what was given."""
    plain = [override for override in LINEAR if not override.startswith("trainer.max_epochs")]
    command = ("train", *plain, "budget=5steps", "resume=auto")
    run = commands(*command).run
    configuration = (run / "config.yaml").read_text()
    (run / "result.json").unlink()
    assert commands(*command).code == 0
    assert (run / "config.yaml").read_text() == configuration
    third = commands(*command)
    assert (third.code, third.out.strip()) == (0, f"finished before: {run.relative_to(commands.folder)}/result.json")


def test_a_run_that_slurm_starts_again(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    run = commands("train", *LINEAR).run
    cut_off(run)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    commands("train", *LINEAR)
    assert len(list(commands.folder.glob("runs/linear/*"))) == 2
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = commands("train", *LINEAR)
    assert (again.code, len(again.runs)) == (0, 2)
    assert json.loads((run / "result.json").read_text())["resumed_from"]["step"] == 4


@pytest.mark.parametrize("word", ["resume=auto", "slurm"])
def test_a_run_that_has_finished_in_a_folder_of_ones_own(
    word: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (*LINEAR, "hydra.run.dir=mine")
    assert commands("train", *command).code == 0
    result = commands.folder / "mine/result.json"
    before = result.stat().st_mtime_ns
    if word == "slurm":
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    done = commands("train", *command, *([word] if word != "slurm" else []))
    assert done.code == 0
    assert done.out.strip() == "finished before: mine/result.json"
    assert result.stat().st_mtime_ns == before


def test_a_finished_run_whose_best_value_is_infinite(commands: Commands) -> None:
    """JSON has no word for it."""
    sweep = (*LINEAR, "-m", "seed=0", "resume=auto")
    run = commands("train", *sweep).run
    result = json.loads((run / "result.json").read_text())
    result["best"]["value"] = result["metrics"]["test/loss"] = "inf"
    (run / "result.json").write_text(json.dumps(result))
    done = commands("train", *sweep)
    assert done.code == 0, done.err
    assert done.jobs[0].startswith("1/1 val/loss inf test/loss inf ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resume=nonsense",), "resume=nonsense is not known; use resume=auto (or retry"),
        (("resume=nonsense", "hydra.run.dir=x"), "resume=nonsense is not known"),
        (("resume=nonsense", "-m", "seed=0,1"), "resume=nonsense is not known"),
        (("resume=auto", "ckpt_path=x.ckpt"), "resume=auto finds its checkpoint itself; leave out ckpt_path=x.ckpt"),
        (("resume=auto", "hydra.run.dir=theirs"), "the folder theirs holds a run of other values (seed=3)"),
        (("hydra.run.dir=theirs",), "the folder theirs holds a run already; give another one, or go on with it"),
        (("resume=auto", "hydra.run.dir=busy"), "another process works in the folder busy; wait for it, or stop it"),
    ],
)
def test_one_line(arguments: tuple[str, ...], words: str, commands: Commands) -> None:
    for name in ("theirs", "busy"):
        (commands.folder / name).mkdir()
    theirs = commands.folder / "theirs/config.yaml"
    theirs.write_text("{experiment: linear, overrides: [seed=3], in_sweep: false}")
    with a_process_in(commands.folder / "busy"):
        done = commands("train", *LINEAR, *arguments)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert done.out == ""
    assert not done.runs
    assert "[seed=3]" in theirs.read_text()
