"""Scalars from event files: the steps they belong to, time without pauses, files that are cut off or damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Data, Net, fit
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from metronome.report.events import read_curves
from metronome.report.step_table import StepTable

NAME = "events.out.tfevents.{}.host.1.0"
Write = Callable[..., None]


def test_a_step_is_counted_when_it_is_done(write_events: Write, tmp_path: Path) -> None:
    write_events(tmp_path / NAME.format(1), {"loss": [(0, 3.0, 1001.0), (4, 2.0, 1003.5)]}, begin=1000.0)
    curves, problems = read_curves(tmp_path)
    assert problems == []
    assert curves["loss"].steps.tolist() == [1, 5]
    assert curves["loss"].values.tolist() == [3.0, 2.0]
    assert curves["loss"].seconds.tolist() == [1.0, 3.5]


def test_what_lightning_logs_belongs_to_these_steps(tmp_path: Path) -> None:
    """157 samples in batches of 32, 4 epochs of 5 steps: the loss of the step k is at k, a validation at 5, 10, ..."""
    logger = TensorBoardLogger(tmp_path, name="", version="")
    model, trainer = fit(logger=logger, log_every_n_steps=1, data=Data(batch_size=32))
    assert isinstance(model, Net)
    logger.finalize("success")
    curves, problems = read_curves(tmp_path)
    assert problems == []
    assert curves["loss_step"].steps.tolist() == list(range(1, 21))
    assert curves["loss_step"].values == pytest.approx(model.step_losses, rel=1e-6)
    for tag, values in (("loss_epoch", model.epoch_means), ("val/loss", model.val_losses)):
        assert curves[tag].steps.tolist() == [5, 10, 15, 20]
        assert curves[tag].values == pytest.approx(values, rel=1e-6)
    table = StepTable.of(trainer.plan.as_dict(), {"data": {"batch_size": 32}})
    assert table.samples_at(curves["val/loss"].steps).tolist() == [157, 314, 471, 628]
    assert table.epochs_at(curves["val/loss"].steps).tolist() == [1, 2, 3, 4]


def test_time_between_starts_is_left_out(write_events: Write, tmp_path: Path) -> None:
    write_events(tmp_path / NAME.format(1), {"loss": [(0, 3.0, 1002.0), (1, 2.0, 1004.0)]}, begin=1000.0)
    # an hour later: 3 seconds into this start are 4 + 3 into the run
    write_events(tmp_path / NAME.format(2), {"loss": [(2, 1.0, 4603.0)]}, begin=4600.0)
    # and once more, on a computer whose clock says the same second as the end before
    write_events(tmp_path / NAME.format(3), {"loss": [(3, 0.5, 4605.0)]}, begin=4603.0)
    curves, _ = read_curves(tmp_path)
    assert curves["loss"].steps.tolist() == [1, 2, 3, 4]
    assert curves["loss"].seconds.tolist() == [2.0, 4.0, 7.0, 9.0]


def test_files_side_by_side_do_not_add_up(write_events: Write, tmp_path: Path) -> None:
    """The test's values come in a file of their own, begun while the other is open."""
    write_events(tmp_path / NAME.format(1), {"loss": [(0, 3.0, 1002.0), (1, 2.0, 1008.0)]}, begin=1000.0)
    write_events(tmp_path / NAME.format(2), {"test/loss": [(2, 1.0, 1009.0)]}, begin=1001.0)
    assert read_curves(tmp_path)[0]["test/loss"].seconds.tolist() == [9.0]


def test_a_step_done_again_counts_once(write_events: Write, tmp_path: Path) -> None:
    write_events(tmp_path / NAME.format(1), {"loss": [(0, 3.0, 1001.0), (1, 9.0, 1002.0)]}, begin=1000.0)
    write_events(tmp_path / NAME.format(2), {"loss": [(1, 2.0, 1011.0), (2, 1.0, 1012.0)]}, begin=1010.0)
    curve = read_curves(tmp_path)[0]["loss"]
    assert curve.steps.tolist() == [1, 2, 3]
    assert curve.values.tolist() == [3.0, 2.0, 1.0]


def test_a_file_that_is_being_written(write_events: Write, tmp_path: Path) -> None:
    """Whatever byte it ends at, what is whole is read, without a word."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write_events(whole / NAME.format(1), {"loss": [(i, float(i), 1001.0 + i) for i in range(4)]})
    content = (whole / NAME.format(1)).read_bytes()
    counts: list[int] = []
    cut.mkdir()
    for size in range(0, len(content) + 1, 3):
        (cut / NAME.format(1)).write_bytes(content[:size])
        curves, problems = read_curves(cut)
        assert problems == []
        counts.append(len(curves["loss"].steps) if curves else 0)
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4} or set(counts) == {0, 1, 2, 3}


@pytest.mark.parametrize("noise", [b"\xff" * 40, b"\x00" * 40, b"not an event file"])
def test_a_damaged_file(noise: bytes, write_events: Write, tmp_path: Path) -> None:
    file = tmp_path / NAME.format(1)
    write_events(file, {"loss": [(i, float(i), 1001.0 + i) for i in range(10)]})
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + noise + content[middle + len(noise) :])
    curves, problems = read_curves(tmp_path)
    assert 2 <= len(curves["loss"].steps) < 10
    assert len(problems) == 1
    assert NAME.format(1) in problems[0]
    assert "damaged after" in problems[0]


def test_other_events_and_other_files_are_no_matter(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    writer.close()
    (tmp_path / "train.log").write_text("tfevents")
    assert read_curves(tmp_path) == ({}, [])


def test_values_that_are_not_finite(write_events: Write, tmp_path: Path) -> None:
    values: list[Any] = [(0, float("nan"), 1001.0), (1, float("inf"), 1002.0)]
    write_events(tmp_path / NAME.format(1), {"loss": values})
    curve = read_curves(tmp_path)[0]["loss"]
    assert np.isnan(curve.values[0])
    assert np.isinf(curve.values[1])
