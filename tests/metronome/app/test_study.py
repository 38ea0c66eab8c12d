"""Studies: a sweep that ends with its report, makes only what is missing, and mixes with nothing else."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT, Commands, Done, a_process_in
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from metronome.app.sweeps import study

STUDIES = ("accumulation", "batch_size", "epochs", "growth", "momentum", "regime")
SMALL = ("+study=epochs", "trainer=cpu", "trainer.max_epochs=1", "data.num_train=64", "data.batch_size=32")


def rows(done: Done) -> list[dict[str, str]]:
    (table,) = done.folder.glob("runs/*/sweep_*/report/summary.csv")
    with table.open() as file:
        return list(csv.DictReader(file))


def test_a_study_from_nothing_to_its_report_and_again(commands: Commands, undrawn: None) -> None:
    two = (*SMALL, "seed=0,1")
    done = commands("train", *two)
    assert done.code == 0, done.err
    first, *jobs, last = done.out.strip().splitlines()
    (sweep,) = (commands.folder / "runs/epochs").iterdir()
    assert first == f"epochs  ->  runs/epochs/{sweep.name}"
    assert [job.split("  ")[0] for job in jobs] == ["#0 seed=0", "#1 seed=1"]
    assert last == f"report     runs/epochs/{sweep.name}/report/report.html"
    assert "<h1>Study epochs</h1>" in (sweep / "report/report.html").read_text()
    assert {row["seed"]: row["status"] for row in rows(done)} == {"0": "finished", "1": "finished"}
    # 64 samples / 32
    assert {row["steps"] for row in rows(done)} == {"2"}

    # A job that is gone is made, and only that one; the same folder holds it.
    gone = done.runs[1]
    before = {run: (run / "result.json").stat().st_mtime_ns for run in done.runs}
    (gone / "result.json").unlink()
    again = commands("train", *two)
    assert again.code == 0, again.err
    assert again.out.count("  before  ") == 1
    changed = [run for run in again.runs if (run / "result.json").stat().st_mtime_ns != before[run]]
    assert changed == [gone]
    assert len(list((commands.folder / "runs/epochs").iterdir())) == 1


def test_a_failed_job_is_reported_on(commands: Commands, undrawn: None) -> None:
    done = commands("train", *SMALL[:-1], "seed=0", "data.batch_size=16,65")
    assert done.code == 1
    assert done.out.count("failed: data.batch_size=65 is larger than the 64 training samples") == 1
    assert done.out.strip().splitlines()[-1].startswith("report     runs/epochs/sweep_")
    assert done.err == ""
    assert sorted(row["status"] for row in rows(done)) == ["failed", "finished"]


def test_a_study_whose_configuration_has_changed(commands: Commands, undrawn: None) -> None:
    """Its overrides are the same; half of its runs would be of other values, in the same table."""
    one = (*SMALL, "seed=0", "hydra.sweep.dir=mine")
    assert commands("train", *one).code == 0
    record = commands.folder / "mine/multirun.yaml"
    record.write_text(record.read_text().replace("lr: 0.1", "lr: 0.2"))
    done = commands("train", *one)
    assert done.code == 2
    assert done.err == (
        "error: the study in mine began with optimizer.lr=0.2, which is 0.1 now; begin anew with resume=null, or put "
        "it back\n"
    )


def test_a_study_that_another_process_works_at(commands: Commands, undrawn: None) -> None:
    one = (*SMALL, "seed=0", "hydra.sweep.dir=mine")
    (commands.folder / "mine").mkdir()
    with a_process_in(commands.folder / "mine"):
        done = commands("train", *one)
    assert done.code == 2
    assert done.err.startswith("error: another process works in the folder mine")
    assert commands("train", *one).code == 0  # it has ended


def test_a_study_without_callbacks(commands: Commands, undrawn: None) -> None:
    done = commands("train", *SMALL, "seed=0", "callbacks=none", "logger=none")
    assert done.code == 0, done.out
    assert rows(done)[0]["status"] == "finished"


def test_an_interrupted_study_says_how_to_look_at_it(capfd: pytest.CaptureFixture, tmp_path: Path) -> None:
    def interrupted() -> None:
        with study.reported():
            study._begun[tmp_path / "mine"] = "epochs"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capfd.readouterr().err == f"so far     python scripts/report.py {tmp_path / 'mine'}\n"


def fill(folder: Path, name: str, text: str) -> None:
    folder.mkdir()
    (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: fill(f, "thesis.tex", ""), "the folder mine holds something else; give another hydra.sweep.dir, or"),
        (lambda f: fill(f, "multirun.yaml", "5"), "the folder mine holds something else; give another hydra.sweep.dir"),
        (lambda f: f.write_text(""), "mine is a file, and a study needs a folder; give another hydra.sweep.dir"),
    ],
)
def test_a_folder_that_holds_something_else(prepare: Any, message: str, commands: Commands) -> None:
    prepare(commands.folder / "mine")
    before = sorted(commands.folder.rglob("*"))
    done = commands("train", *SMALL, "hydra.sweep.dir=mine")
    assert done.code == 2
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert sorted(commands.folder.rglob("*")) == before


def test_a_folder_that_holds_another_study(commands: Commands, undrawn: None) -> None:
    options = ("trainer=cpu", "trainer.max_steps=1", "logger=none", "hydra.sweep.dir=mine", "seed=0")
    assert commands("train", "+study=epochs", *options).code == 0
    done = commands("train", "+study=batch_size", "budget=null", "data.batch_size=64", *options)
    assert done.code == 2
    assert done.err.startswith("error: the folder mine holds a sweep or study of other values; give another")
    assert len(list((commands.folder / "mine").glob("*/result.json"))) == 1


@pytest.mark.parametrize("name", STUDIES)
def test_every_job_of_every_study_composes(name: str) -> None:
    """And no two of them are the same."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        sweeper = compose("train", [f"+study={name}"], return_hydra_config=True).hydra.sweeper
        choices = {key: str(values).split(",") for key, values in sweeper.params.items()}
        assert choices.pop("seed") == ["0", "1", "2"]
        found = []
        for job in sweeper.jobs or [[]]:
            for key, values in list(choices.items()) or [("seed", ["0"])]:
                for value in values:
                    config: Any = compose("train", [f"+study={name}", *job, f"{key}={value}"])
                    groups = {name: config[name] for name in ("data", "model", "optimizer", "scheduler", "trainer")}
                    found.append(json.dumps({k: str(v) for k, v in (groups | {"budget": config.budget}).items()}))
    assert len(found) == len(set(found))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs(name: str, commands: Commands) -> None:
    done = commands("train", f"+study={name}", "trainer=cpu", "trainer.max_epochs=2", "seed=0,1", "data.num_train=300")
    assert done.code in (0, 1), done.err
    assert {row["status"] for row in rows(done)} >= {"finished"}
