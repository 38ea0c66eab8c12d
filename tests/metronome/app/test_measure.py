"""What `plan.py measure=true` says is of steps of the training itself, and it leaves nothing."""

import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands
from torch import nn

from metronome.app.measure import server, story
from metronome.app.measure.many import Rows
from metronome.models import Regressor
from metronome.units import BatchSchedule, Duration, InputError, Plan

QUICK = ("+experiment=linear", "trainer=cpu", "measure=true", "seconds=0.02", "num_threads=1")


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Processes that need not import anything again, on a machine of two cores; the folder of temporary files."""
    monkeypatch.setattr(server, "context", lambda: multiprocessing.get_context("fork"))
    monkeypatch.setattr(server, "begin", lambda config: None)
    monkeypatch.setattr(story, "_cores", lambda: 2)
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Counts(Regressor):
    """Says in a file what its steps were given; runs out of memory above `most` samples at once."""

    file: Any = None

    def __init__(self, most: int = 10**9, **options: Any) -> None:
        super().__init__(nn.Linear(10, 1), **options)
        self.most = most

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(batch[0]) > self.most:
            raise torch.OutOfMemoryError("out of memory: as a GPU says it")
        with open(Counts.file, "a") as file:
            trainer: Any = self.trainer
            print(trainer.world_size, trainer.accumulate, len(batch[0]), batch_idx, file=file)
        return super().training_step(batch, batch_idx)


def test_layouts_and_no_trace(commands: Commands, forks: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    Counts.file = tmp_path_factory.mktemp("counted") / "steps"
    done = commands("plan", *QUICK, f"model._target_={__name__}.Counts", "~model.network", "format=json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    measured = plan.pop("measured")
    assert plan == json.loads(commands("plan", *QUICK[:2], "format=json").out)

    layouts = {(one["devices"], one["accumulate"]): one for one in measured["layouts"]}
    assert list(layouts) == [(1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (8, 1)]
    assert layouts.pop((8, 1))["why"] == "not here: 2 CPU cores"
    assert all(one["seconds_a_step"]["count"] >= 1 and one["memory_bytes"]["peak"] > 0 for one in layouts.values())
    own = measured["own"]
    assert measured["validations"] == 5
    assert own["seconds_a_validation"] > 0
    assert own["seconds_a_save"] > 0
    parts = own["seconds"]
    assert parts["training"] == pytest.approx(parts["steps"] + parts["validations"] + parts["saves"])
    assert parts["steps"] >= 500 * own["seconds_a_step"]["low"]
    assert (own["memory_bytes"]["parameters"], own["memory_bytes"]["gradients"]) == (44, 44)

    # They were our engine's steps: each batch whole, cut as the layout says, from the first step of the epoch.
    lines = [tuple(map(int, line.split())) for line in Counts.file.read_text().splitlines()]
    by_layout: dict[Any, list[Any]] = {}
    for devices, accumulate, samples, step in lines:
        by_layout.setdefault((devices, accumulate), []).append((step, samples))
    assert by_layout[1, 1][:2] == [(0, 10), (1, 10)]
    assert by_layout[1, 4][:4] == [(0, 3), (0, 3), (0, 2), (0, 2)]
    assert by_layout[2, 1][:2] == [(0, 5), (0, 5)]

    assert list(commands.folder.iterdir()) == []
    assert list(forks.iterdir()) == []


@pytest.mark.slow
def test_out_of_memory_is_told_of_the_layouts_that_need_too_much(
    commands: Commands, forks: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Counts.file = tmp_path_factory.mktemp("counted") / "steps"
    job = (*QUICK, f"model._target_={__name__}.Counts", "~model.network", "+model.most=5", "data.batch_size=20")
    done = commands("plan", *job, "trainer.accumulate_grad_batches=8")
    rows = {tuple(line.split()[:2]): line for line in done.out.splitlines() if line.split()[:1] in (["1"], ["2"])}
    assert all(rows["1", k].endswith("out of memory") for k in "12"), done.out
    assert all("out of memory" not in rows["1", k] for k in "48"), done.out
    assert rows["1", "8"].endswith("<-")
    assert all(len(line) <= 80 for line in done.out.splitlines())

    alone = commands("plan", *job, "trainer.accumulate_grad_batches=1")
    assert "measured   nothing: out of memory" in alone.out


def test_a_mistake_is_one_line(commands: Commands, forks: Path) -> None:
    done = commands("plan", *QUICK, "optimizer.lr=-1")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    done = commands("plan", *QUICK[:3], "seconds=soon")
    assert done.code == 2
    assert "seconds='soon' of steps to measure is not a number above 0" in done.err
    assert "measure=5 is neither true nor false" in commands("plan", *QUICK[:2], "measure=5").err


@pytest.mark.slow
def test_a_growing_batch_by_its_sizes(commands: Commands, forks: Path) -> None:
    growth = "data.batch_growth={factor: 4, every: 1 epochs, max: 160, accumulate: true}"
    done = commands("plan", *QUICK, growth, "budget=3 epochs", "format=json")
    measured = json.loads(done.out)["measured"]
    assert [(one["batch_size"], one["accumulate"]) for one in measured["layouts"]] == [(10, 1), (40, 4), (160, 16)]
    steps = {one["batch_size"]: one["seconds_a_step"]["mean"] for one in measured["layouts"]}
    whole = 100 * steps[10] + 25 * steps[40] + 7 * steps[160]
    assert measured["own"]["seconds"]["steps"] == pytest.approx(whole, rel=0.5)  # and what an epoch takes beside


@pytest.mark.slow
def test_several_plans_are_one_table(commands: Commands, forks: Path) -> None:
    done = commands("plan", "+experiment=linear", "-m", "trainer.devices=1,8")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["devices", "micro-batch", "steps", "an", "epoch", "steps", "iterations", "samples"]
    assert rows[1:] == [["1", "10", "100", "500", "500", "5,000"], ["8", "2", "100", "500", "500", "5,000"]]
    small, large = json.loads(commands("plan", *QUICK, "-m", "data.batch_size=10,5000", "format=json").out)
    assert small["total_steps"] == 500
    assert small["measured"]["own"]["seconds_a_step"]["count"] > 0
    assert len(small["measured"]["layouts"]) == 1
    assert "data.batch_size=10" in small["overrides"]
    assert "larger than the 1,000 training samples" in large["error"]
    assert list(commands.folder.iterdir()) == []
    assert list(forks.iterdir()) == []


def test_rows_of_several_plans_fit_a_terminal() -> None:
    rows = Rows()
    for size in (8, 20_000):
        with rows.of_a_job(["+experiment=digits", "optimizer.lr=0.1", f"data.batch_size={size}"]):
            schedule = BatchSchedule.of(size, 1257)  # refuses the second in a long line
            rows.add(Plan.make(1257, schedule, budgets=[Duration.parse("15 epochs")]))
    lines = rows.text().splitlines()
    assert lines[0].split()[0] == "batch_size"
    assert lines[1].split()[:2] == ["8", "8"]
    assert lines[2].split()[0] == "20000"
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines[2:]).split())
    with pytest.raises(InputError) as refused:
        BatchSchedule.of(20_000, 1257)
    assert str(refused.value) in words


@pytest.mark.slow
def test_memory_is_that_of_the_arithmetic(commands: Commands, forks: Path) -> None:
    """28 million weights: as much again for the gradients, and for the momentum, which is updated in place."""
    wide = ("model=mlp", "model.network.hidden=[5000,5000,500]", "optimizer=momentum", "optimizer.lr=0.001")
    job = ("+experiment=digits", *wide, "data.batch_size=8", "callbacks=none", "logger=none", "measure=true")
    memory = json.loads(commands("plan", *job, "seconds=0.2", "format=json").out)["measured"]["own"]["memory_bytes"]
    weights = 4 * (65 * 5000 + 5001 * 5000 + 5001 * 500 + 501 * 10)
    assert memory["parameters"] == memory["gradients"] == weights
    assert memory["optimizer"] == weights
    assert memory["before"] > weights
    assert 1.95 * weights < memory["peak"] - memory["before"] < 2.5 * weights + 50e6
