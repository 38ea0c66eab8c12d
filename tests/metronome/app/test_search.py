"""A search: trials judged by their best value, in a file that outlives a kill."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT, Commands, Done, a_process_in, wait_for
from omegaconf import OmegaConf

from metronome.app.sweeps.direction import direction_of_search
from metronome.app.sweeps.search import trials_done, trials_left

optuna = pytest.importorskip("optuna")
pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")

STUDY = ("+study=search", "trainer=cpu", "logger=none", "model=mlp", "model.network.hidden=[8]", "trainer.max_epochs=1")
PLAIN = ("-m", "hydra/sweeper=optuna", "+experiment=linear", "trainer=cpu", "logger=none", "trainer.max_epochs=1")
RATES, SIZES = "optimizer.lr=tag(log, interval(0.001, 0.1))", "data.batch_size=choice(250,5000)"


def trials(commands: Commands) -> list[dict[str, Any]]:
    """The trials in the search's file: state, value, and the values tried."""
    (file,) = commands.folder.rglob("search.db")
    found = optuna.load_study("search", f"sqlite:///{file}").trials
    return [{"state": trial.state.name, "value": trial.value, "params": trial.params} for trial in found]


def cut_off(file: Path, number: int) -> None:
    """Leave the search as a kill in the middle of this trial does."""
    storage = f"sqlite:///{file}"
    study = optuna.load_study("search", storage)
    trials, direction = study.trials, study.direction
    trials[number].state, trials[number].value = optuna.trial.TrialState.RUNNING, None
    trials[number].datetime_complete = None
    optuna.delete_study("search", storage)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        optuna.create_study(storage, study_name="search", direction=direction).add_trials(trials)


def states(commands: Commands) -> list[str]:
    return [trial["state"] for trial in trials(commands)]


def jobs(done: Done) -> list[str]:
    """The lines of jobs; the others tell of the search."""
    return done.jobs


def rate(result: dict[str, Any]) -> float:
    (found,) = [o.split("=")[1] for o in result["overrides"] if o.startswith("optimizer.lr=")]
    return float(found)


def by_rate(done: Done) -> dict[float, dict[str, Any]]:
    return {rate(result): result for result in done.results}


@pytest.mark.slow
def test_a_study_and_more_of_it(commands: Commands) -> None:
    first = commands("train", *STUDY, "trials=3")
    assert first.code == 0, first.err
    assert (first.err, len(first.runs), len(jobs(first))) == ("", 3, 3)
    assert states(commands) == ["COMPLETE"] * 3
    results = by_rate(first)
    for trial in trials(commands):
        result = results[trial["params"]["optimizer.lr"]]
        assert trial["value"] == result["best"]["value"]
        assert not [name for name in result["metrics"] if name.startswith("test/")]
    best = min(results, key=lambda found: results[found]["best"]["value"])
    last = first.out.split("\n\n")[-1]
    told = " ".join(last.split())
    assert told.startswith("best of 3 trials: ")
    assert f" optimizer.lr={best} " in told, "in full, to be copied"
    run = first.runs[first.results.index(results[best])]
    assert f" val/loss {results[best]['best']['value']:.4g} its folder {run.name} report " in told
    assert told.endswith(f" report python scripts/report.py {run.parent.relative_to(first.folder)}")
    # Again: nothing is left. With more trials: the rest, in the same folder, with other values.
    written = {run: (run / "result.json").stat().st_mtime_ns for run in first.runs}
    again = commands("train", *STUDY, "trials=3")
    assert (again.code, again.out, len(again.runs)) == (0, "\n" + last, 3)
    more = commands("train", *STUDY, "trials=5")
    assert (more.code, len(more.runs)) == (0, 5), more.err
    assert [line.split()[0] for line in jobs(more)] == ["4/5", "5/5"]
    assert "\nbest of 5 trials: " in more.out
    assert {run.parent for run in more.runs} == {first.runs[0].parent}
    assert len(by_rate(more)) == 5
    assert all((run / "result.json").stat().st_mtime_ns == before for run, before in written.items())


def test_a_search_from_the_command_line(commands: Commands) -> None:
    command = (*PLAIN, "data.batch_size=250", RATES, "test=true", "data.data_seed=${seed}")
    first = commands("train", *command, "trials=2", "hydra/sweeper/sampler=random")
    assert first.code == 0, first.err
    assert states(commands) == ["COMPLETE"] * 2
    assert all("test/loss" in result["metrics"] for result in first.results)  # asked for
    assert all(line.split()[1].startswith("optimizer.lr=") for line in jobs(first))  # no word that all have
    # In whatever order.
    more = commands("train", "resume=auto", "trials=3", *reversed(command[1:]), "-m")
    assert (more.code, len(jobs(more)), len(more.runs)) == (0, 1, 3), more.err
    # Without resume a new one.
    other = commands("train", *command, "trials=1")
    assert (other.code, len(jobs(other)), len(other.runs)) == (0, 1, 4)
    assert len(list(commands.folder.rglob("search.db"))) == 2


@pytest.mark.slow
def test_values_that_come_again_are_not_run_again(commands: Commands) -> None:
    done = commands("train", *PLAIN, "data.batch_size=choice(250,500)", "trials=5")
    assert done.code == 0, done.err
    assert 1 <= len(done.runs) <= 2
    assert len(jobs(done)) == 5
    assert sum(job.endswith(" before") for job in done.jobs) == 5 - len(done.runs)
    assert states(commands) == ["COMPLETE"] * 5


@pytest.mark.slow
def test_a_trial_that_fails(commands: Commands) -> None:
    command = (*PLAIN, RATES, SIZES, "hydra.sweeper.sampler.seed=0", "trials=6", "hydra.sweep.dir=mine")
    done = commands("train", *command)
    assert (done.code, done.err) == (0, "")
    assert len(jobs(done)) == 6
    failed = states(commands).count("FAIL")
    assert 0 < failed < 6
    told = " ".join(done.out.split())
    assert told.count(" failed: data.batch_size=5000 is larger than the 1,000 training samples") == failed
    assert f"\ntrials     {6 - failed} finished, {failed} failed\n" in done.out
    assert f"\nbest of {6 - failed} trials: data.batch_size=250 " in done.out
    # A failure stands, unless it is to be tried again, with the same values.
    again = commands("train", *command, "resume=auto")
    assert (again.code, jobs(again)) == (0, [])
    before = [trial["params"] for trial in trials(commands)]
    retried = commands("train", *command, "resume=retry")
    assert (retried.code, len(jobs(retried)), retried.out.count(" failed: ")) == (0, failed, failed)
    assert states(commands).count("FAIL") == failed
    assert [trial["params"] for trial in trials(commands)] == before
    # What is in the folder is safe from other searches.
    refused = commands("train", *command)
    assert (refused.code, refused.out) == (2, "")
    (line,) = refused.err.splitlines()
    assert line == ("error: the folder mine holds a search already; give another one, or go on with it: resume=auto")
    refused = commands("train", *command, "seed=1", "resume=auto")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.strip() == "error: the folder mine holds a search of other values; give another one"


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    ["data.batch_size=5000", "callbacks.checkpoint.monitor=null", "callbacks.checkpoint=null"],
    ids=["failing", "nothing monitored", "no checkpoint"],
)
def test_no_trial_has_a_value(option: str, commands: Commands) -> None:
    done = commands("train", *PLAIN, RATES, option, "trials=2")
    assert done.code == 1
    assert len(jobs(done)) == 2
    (line,) = done.err.splitlines()
    assert line.startswith("error: no trial of the search in runs/linear/sweep_")
    assert line.endswith(" has come to a value of the monitored metric")
    assert "Traceback" not in done.out


@pytest.mark.slow
def test_a_trial_that_was_cut_off(commands: Commands) -> None:
    command = (*PLAIN, "data.batch_size=250", RATES, "trials=3", "resume=auto")
    first = commands("train", *command)
    before, results = trials(commands), by_rate(first)
    cut = before[1]["params"]["optimizer.lr"]
    (run,) = [run for run, result in zip(first.runs, first.results, strict=True) if rate(result) == cut]
    written = {run: (run / "result.json").stat().st_mtime_ns for run in first.runs}
    result = run / "result.json"
    result.write_text(result.read_text()[:100])
    cut_off(run.parent / "search.db", 1)
    (run.parent / "search.db.new").write_bytes(b"half")  # of a start that was killed before it came to a trial
    again = commands("train", *command)
    assert again.code == 0, again.err
    (line,) = jobs(again)
    assert f" optimizer.lr={cut:.4g} " in line
    assert trials(commands) == before
    assert by_rate(again)[cut]["resumed_from"]["step"] == 4
    assert by_rate(again)[cut]["weights_sha256"] == results[cut]["weights_sha256"]
    changed = [run for run in written if (run / "result.json").stat().st_mtime_ns != written[run]]
    assert changed == [run]
    # Cut off between the end of its run and the search's hearing of it: told, not run again.
    cut_off(run.parent / "search.db", 1)
    again = commands("train", *command)
    assert (again.code, sum(job.endswith(" before") for job in again.jobs), len(jobs(again))) == (0, 1, 1)
    assert trials(commands) == before


@pytest.mark.slow
def test_a_search_that_was_cut_off_before_its_first_trial(commands: Commands) -> None:
    command = (*PLAIN, "data.batch_size=250", RATES, "trials=1", "resume=auto", "hydra.sweep.dir=mine")
    assert commands("train", *command).code == 0
    file = commands.folder / "mine/search.db"
    file.write_bytes(b"")  # made, and nothing in it
    again = commands("train", *command)
    assert (again.code, states(commands)) == (0, ["COMPLETE"])


def test_no_search_is_counted_without_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To import it takes a second, and every start of a search asks."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert (trials_left(5, str(tmp_path), None), trials_done(str(tmp_path))) == (5, 0)


def test_the_same_search_twice_at_a_time(commands: Commands) -> None:
    """The second would take the trials of the first for cut off."""
    (commands.folder / "mine").mkdir()
    with a_process_in(commands.folder / "mine"):
        done = commands("train", *PLAIN, RATES, "hydra.sweep.dir=mine", "resume=auto")
    assert (done.code, done.out) == (2, "")
    assert done.err.strip() == "error: another process works in the folder mine; wait for it, or stop it"


def test_the_value_is_that_of_the_best_checkpoint(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the last epoch: with this rate the loss falls at first, and rises in the end."""
    options = ("data.batch_size=250", "trainer.max_epochs=4")
    rising = "+callbacks.rising={_target_: rising.Rising}"
    (commands.folder / "rising.py").write_text(RISING)
    monkeypatch.syspath_prepend(commands.folder)
    done = commands("train", *PLAIN, *options, rising, RATES, "trials=1")
    assert done.code == 0, done.err
    (trial,), result = trials(commands), done.result
    assert trial["value"] == result["best"]["value"]
    assert result["metrics"]["val/loss"] > 2 * result["best"]["value"]
    assert result["best"]["step"] == 8


RISING = '''
from lightning.pytorch.callbacks import Callback


class Rising(Callback):
    """From the third epoch on away from the minimum."""

    def on_train_epoch_start(self, trainer, pl_module):
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.1 if trainer.current_epoch < 2 else 3.0
'''


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["monitor=val/acc", "callbacks.checkpoint.monitor=val/acc"])
def test_the_greatest_value_is_the_best_where_the_metric_is_to_grow(monitor: str, commands: Commands) -> None:
    done = commands("train", *STUDY, monitor, "trials=2")
    assert done.code == 0, done.err
    greatest = max(result["best"]["value"] for result in done.results)
    assert f" val/acc {greatest:.4g}\n" in done.out.split("\n\n")[-1]
    (file,) = commands.folder.rglob("search.db")
    study = optuna.load_study("search", f"sqlite:///{file}")
    assert (study.direction.name, study.best_value) == ("MAXIMIZE", greatest)


@pytest.mark.slow
def test_a_search_of_what_cannot_be_told_makes_no_trial(commands: Commands) -> None:
    done = commands("train", *PLAIN, RATES, "monitor=val/foo", "trials=2")
    assert (done.code, done.out, done.runs) == (2, "", [])
    (line,) = done.err.splitlines()
    assert line.startswith("error: monitor=val/foo: whether lower or higher is better cannot be told from its name")


@pytest.mark.slow
def test_a_search_in_the_other_direction(commands: Commands) -> None:
    done = commands("train", *PLAIN, RATES, "data.batch_size=250", "hydra.sweeper.direction=maximize", "trials=1")
    assert done.code == 1
    assert "the search is to maximize val/loss, and its runs keep the minimum as the best" in done.out


CHECKPOINT = {"_target_": "a.Checkpoint", "monitor": "${monitor}", "mode": "${mode}", "dirpath": "${nowhere:}"}


@pytest.mark.parametrize(
    ("changes", "direction"),
    [
        ({}, "minimize"),
        ({"monitor": "val/acc"}, "maximize"),
        ({"monitor": "val/foo", "mode": "max"}, "maximize"),
        ({"callbacks.checkpoint.monitor": "val/acc"}, "maximize"),
        ({"callbacks.checkpoint.monitor": "val/acc", "callbacks.checkpoint.mode": "min"}, "minimize"),
        ({"monitor": "val/acc", "callbacks.checkpoint.monitor": None}, "minimize"),  # no trial has a value
        ({"callbacks.checkpoint": None}, "minimize"),
    ],
)
def test_direction(changes: dict[str, Any], direction: str) -> None:
    config = OmegaConf.create({"monitor": "val/loss", "mode": None, "callbacks": {"checkpoint": CHECKPOINT, "x": None}})
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    assert direction_of_search(config) == direction


def test_without_the_package(commands: Commands) -> None:
    """One line that says what to install."""
    code = (
        "import runpy, sys; sys.modules['hydra_plugins'] = None; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = str(PROJECT / "scripts/train.py")
    for arguments in (STUDY, PLAIN):
        command = [sys.executable, "-c", code, script, *arguments]
        done = subprocess.run(command, cwd=commands.folder, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line == "error: no hydra/sweeper 'optuna'; others come with: pip install -e '.[sweeps]'"


@pytest.mark.slow
def test_a_search_that_was_killed(commands: Commands) -> None:
    """In the middle of its second trial of three; the same command makes the three of it."""
    folder = commands.folder / "mine"
    command = ("hydra.sweep.dir=mine", "data.batch_size=50", RATES, "trials=3", "resume=auto")
    command = (*PLAIN[:-1], "trainer.max_epochs=10", *command, "hydra.sweeper.sampler.seed=1")
    killed = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts/train.py"), *command],
        cwd=commands.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: len(list(folder.glob("*/checkpoints/last.ckpt"))) > 1 or killed.poll() is not None)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert len(list(folder.glob("*/result.json"))) == 1, "the kill came too late"
    first, second = trials(commands)
    assert (first["state"], second["state"]) == ("COMPLETE", "RUNNING")
    again = commands("train", *command)
    assert again.code == 0, again.err
    assert [line.split()[0] for line in jobs(again)] == ["2/3", "3/3"]
    found = trials(commands)
    assert [trial["state"] for trial in found] == ["COMPLETE"] * 3
    assert (found[0], found[1]["params"]) == (first, second["params"])
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*/result.json"))]
    values = {rate(result): result["best"]["value"] for result in results}
    assert values == {trial["params"]["optimizer.lr"]: trial["value"] for trial in found}
    resumed = {rate(result) for result in results if result["resumed_from"] is not None}
    assert resumed == {second["params"]["optimizer.lr"]}
