"""The lines of a training whose every duration and metric is set by hand, compared as a whole."""

import io
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import jobs
import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from metronome.insight import Progress
from metronome.insight.progress import callback as progress
from metronome.insight.progress.callback import ERASE_LINE
from metronome.insight.progress.lines import PLAIN_COLUMNS, Parts, epoch_line, live_line
from metronome.insight.progress.lines import clock as in_words
from metronome.insight.progress.time_left import JobOfSweep
from metronome.training import Trainer
from metronome.units import InputError


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Standard output, to which the permanent lines go as well."""

    columns = 200

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    terminal = Terminal()
    handler = logging.StreamHandler(terminal)
    progress.log.addHandler(handler)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((terminal.columns, 24)))
    yield terminal
    progress.log.removeHandler(handler)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What has been logged since it was last asked for, in wide lines."""
    monkeypatch.setattr(progress, "PLAIN_COLUMNS", 200)
    caplog.set_level(logging.INFO, "metronome.progress")

    def take() -> list[str]:
        records = [r for r in caplog.records if r.name == "metronome.progress"]
        caplog.clear()
        assert all(r.levelname == "INFO" for r in records)
        return [r.getMessage() for r in records]

    return take


class Timed(jobs.Net):
    """A step takes `step` seconds, a validation `validation`; what is logged is easily worked out."""

    def __init__(self, clock: Clock, step: float = 0.25, validation: float = 10.0) -> None:
        super().__init__()
        self.clock, self.seconds = clock, (step, validation)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += self.seconds[0]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", 1.0 / (self.global_step + 1), prog_bar=True)
        self.log("train/mean", float(batch_idx), on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/quiet", 1.0)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log("train/late", self.current_epoch + 0.5, prog_bar=True)

    def on_validation_epoch_start(self) -> None:
        self.clock.now += self.seconds[1]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/acc", 1.3e-5, prog_bar=True)


def fit(model: L.LightningModule, *callbacks: Callback, stdout: io.StringIO | None = None, **flags: Any) -> Trainer:
    with redirect_stdout(stdout or io.StringIO()):
        callbacks = callbacks or (Progress(every_seconds=0),)
        return jobs.fit(model=model, callbacks=list(callbacks), enable_progress_bar=True, **flags)[1]


# Losses 1/5 and 1/10 in the last steps; mean (32 x (0 + 1 + 2 + 3) + 29 x 4) / 157 = 1.9618;
# 157 samples in 5 x 0.25 s: 125.6 a second, whatever the validation takes.
TWO_EPOCHS = [
    "epoch 1/2  step  5/10  157 samples  train/loss 0.2     val/acc 1.3e-05  train/mean 1.962   train/late 0.5     "
    "126 samples/s",
    "epoch 2/2  step 10/10  314 samples  train/loss 0.1     val/acc 1.3e-05  train/mean 1.962   train/late 1.5     "
    "126 samples/s",
]


@pytest.mark.parametrize(
    "flags", [{}, {"accumulate_grad_batches": 3}, {"num_sanity_val_steps": 1}, {"val_check_interval": 2}]
)
def test_one_line_an_epoch(clock, lines, flags):
    file = io.StringIO()
    fit(Timed(clock), stdout=file, max_epochs=2, **flags)
    assert lines() == TWO_EPOCHS
    assert file.getvalue() == ""  # no live line where there is no terminal


def test_lines_without_a_terminal_have_80_columns(clock, lines, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_COLUMNS", PLAIN_COLUMNS)
    fit(Timed(clock), max_epochs=2)
    assert lines() == [
        "epoch 1/2  train/loss 0.2     val/acc 1.3e-05  train/mean 1.962   train/late 0.5",
        "epoch 2/2  train/loss 0.1     val/acc 1.3e-05  train/mean 1.962   train/late 1.5",
    ]


def drawn(terminal: Terminal) -> list[str]:
    """The live lines, one after another."""
    return [part for part in re.split(r"\r\x1b\[K|\n", terminal.getvalue()) if part.endswith((" left", "in all"))]


def test_live_line(clock, lines, terminal):
    terminal.columns = 79
    fit(Timed(clock), max_epochs=2, stdout=terminal)
    lives = drawn(terminal)
    assert len(lives) == 14
    # 282 samples left at 32 in 0.25 s: 2.2 s; 32 of 314 are a tenth, of 16 columns one.
    assert lives[0] == "epoch 1/2  step  1/10  █░░░░░░░░░░░░░░░  loss 1       128 samples/s  0:03 left"
    # 221 samples took 7 steps and a validation, 11.75 s; 93 are left: 4.9 s
    assert lives[8] == "epoch 2/2  step  7/10  ███████████░░░░░  loss 0.1429  128 samples/s  0:05 left"
    assert lives[11].endswith("  0:00 left")
    # As it begins, and after a batch that is done 0.2 s later or more.
    assert lives[5:7] == [
        "epoch 1/2  step  5/10  ████████████░░░░░░░░░░░░  validating 0%  0:02 left",
        "epoch 1/2  step  5/10  ████████████░░░░░░░░░░░░  validating 100%  0:12 left",
    ]


def test_live_lines_make_room_for_others(clock, lines, terminal):
    fit(Timed(clock), max_epochs=2, stdout=terminal)
    lives = drawn(terminal)
    # Each is drawn over the one before and gone when a permanent line comes.
    blocks = ["".join(ERASE_LINE + live for live in part) for part in (lives[:7], lives[7:])]
    expected = "".join(f"{live}{ERASE_LINE}{line}\n" for live, line in zip(blocks, TWO_EPOCHS, strict=True))
    assert terminal.getvalue() == expected
    assert lines() == TWO_EPOCHS


FULL = Parts(
    epoch="epoch  3/15",
    step="step  61/300",
    samples=" 3,835 samples",
    metrics={"train/loss": 0.48571, "train/acc": 0.91},
    speed="4,210 samples/s",
    left="0:12 left",
    done=0.2,
)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (120, "epoch  3/15  step  61/300  ████░░░░░░░░░░░░░░░░░░░░   3,835 samples  loss 0.4857  acc 0.91    "
         "4,210 samples/s  0:12 left"),
        (100, "epoch  3/15  step  61/300  ████░░░░░░░░░░░░░░░░  loss 0.4857  acc 0.91    4,210 samples/s  0:12 left"),
        (80, "epoch  3/15  step  61/300  ██░░░░░░░░░░  loss 0.4857  4,210 samples/s  0:12 left"),
        (70, "epoch  3/15  step  61/300  loss 0.4857  4,210 samples/s  0:12 left"),
        (60, "epoch  3/15  step  61/300  loss 0.4857  0:12 left"),
        (40, "step  61/300  loss 0.4857  0:12 left"),
        (30, "step  61/300  0:12 left"),
        (20, "0:12 left"),
        (5, "0:12 "),
    ],
)  # fmt: skip
def test_what_is_left_out_where_it_does_not_fit(columns, line):
    assert live_line(FULL, columns) == line


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "job 3/12  epoch  3/15  step  61/300  loss 0.4857  1:02:12 left in all"),
        (60, "job 3/12  step  61/300  loss 0.4857  1:02:12 left in all"),
        (40, "job 3/12  1:02:12 left in all"),
    ],
)
def test_in_a_sweep_the_job_and_the_time_left_come_first(columns, line):
    assert live_line(replace(FULL, job="job 3/12", left="1:02:12 left in all"), columns) == line


@pytest.mark.parametrize("columns", [120, 80, 60, 40, 20])
def test_no_line_is_too_long(columns):
    many = {f"train/a_very_long_name_of_a_metric_{i}": -1.2345e-12 for i in range(8)}
    huge = Parts("job 123/456", "epoch 1,234/9,999", "step 12,345,678/99,999,999", "", "1,234,567,890 samples", many,
                 "1,234,567 samples/s", "123:45:56 left in all", 0.5)  # fmt: skip
    for parts in (huge, replace(huge, state="validating 40%")):
        assert len(live_line(parts, columns)) <= columns
    assert len(epoch_line(huge, columns)) <= columns


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (120, "epoch  3/15  step  61/300   3,835 samples  train/loss 0.4857  train/acc 0.91    4,210 samples/s"),
        (80, "epoch  3/15  step  61/300  train/loss 0.4857  train/acc 0.91    4,210 samples/s"),
        (70, "epoch  3/15  step  61/300  train/loss 0.4857  train/acc 0.91"),
        (50, "epoch  3/15  train/loss 0.4857  train/acc 0.91"),
        (40, "epoch  3/15  train/loss 0.4857"),
    ],
)
def test_what_an_epoch_leaves_out(columns, line):
    assert epoch_line(FULL, columns) == line


def test_a_bar_without_unicode(clock, lines, terminal, monkeypatch):
    monkeypatch.setattr(type(terminal), "encoding", "ascii", raising=False)
    terminal.columns = 79
    fit(Timed(clock), max_epochs=2, stdout=terminal)
    assert drawn(terminal)[0] == "epoch 1/2  step  1/10  #---------------  loss 1       128 samples/s  0:03 left"


def test_a_budget_in_time(clock, lines, terminal, monkeypatch):
    """What is left is what is left of it, whatever the samples."""
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time.monotonic", clock)
    fit(Timed(clock, validation=0.0), budget="3 s", max_epochs=None, stdout=terminal)
    assert [(line.split("  ")[:2], line.split("  ")[-1]) for line in drawn(terminal)[:2]] == [
        (["epoch 1", "step 1"], "0:03 left"), (["epoch 1", "step 2"], "0:03 left"),
    ]  # fmt: skip
    steps = [line.split("  ")[1] for line in drawn(terminal) if "validating" not in line]
    assert (steps[-1], drawn(terminal)[-1].split("  ")[-1]) == ("step 12", "0:00 left")
    # 1.5 s of 3
    half = next(line for line in drawn(terminal) if "  step 6  " in line)
    assert half.count("█") == half.count("░") > 5


def test_a_job_of_a_sweep(clock, lines, terminal):
    """The time left is the sweep's: of this job as before, and of nine more at 100 s each."""
    bar = Progress(0)
    bar.job = JobOfSweep(3, 12, 100.0)
    terminal.columns = 79
    fit(Timed(clock), bar, max_epochs=2, stdout=terminal)
    # (2 + 32 / 314) / 12 is a sixth
    assert drawn(terminal)[0] == "job  3/12  epoch 1/2  step  1/10  loss 1       15:03 left in all"


def test_the_first_job_of_a_sweep_is_the_measure(clock, lines, terminal):
    bar = Progress(0)
    bar.job = JobOfSweep(1, 3, None)
    fit(Timed(clock, validation=0.0), bar, max_epochs=2, stdout=terminal)
    # 0.25 s and 2.2 s; three times that less what is done
    assert drawn(terminal)[0].endswith(f"  {in_words(2.204 + 2 * 2.454)} left in all")


def test_none_is_drawn_where_others_write(clock, lines, terminal):
    bar = Progress(0)
    bar.may_draw = False
    fit(Timed(clock), bar, max_epochs=1, stdout=terminal)
    assert ERASE_LINE not in terminal.getvalue()
    assert len(lines()) == 1


def test_a_long_test_is_no_dead_one(clock, lines, terminal):
    class Slow(Timed):
        def on_test_batch_start(self, *_: Any) -> None:
            self.clock.now += 0.25

        def test_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)

    run = jobs.trainer(callbacks=[Progress(0)], enable_progress_bar=True)
    with redirect_stdout(terminal):
        run.test(Slow(clock), jobs.Data(batch_size=32, eval_batch_size=11), verbose=False)
    assert re.findall(r"testing \d+%", terminal.getvalue()) == ["testing 33%", "testing 66%", "testing 100%"]
    assert terminal.getvalue().endswith(ERASE_LINE)


def test_live_line_fits_the_terminal(clock, lines, terminal):
    terminal.columns = 40
    fit(Timed(clock), max_epochs=1, max_steps=1, stdout=terminal)
    assert f"{ERASE_LINE}step 1/1  loss 1       0:00 left{ERASE_LINE}" in terminal.getvalue()


def test_live_line_is_redrawn_after_a_fifth_of_a_second(clock, lines, terminal):
    fit(Timed(clock, step=0.0625, validation=0.0), max_epochs=2, stdout=terminal)
    live = [line for line in drawn(terminal) if "validating" not in line]
    assert re.findall(r"step +(\d+)/10", " ".join(live)) == ["4", "9"]  # a validation began at 5


def test_short_epochs_share_lines(clock, lines):
    data = jobs.Data(batch_size="full")
    fit(Timed(clock), Progress(), data=data, max_epochs=10, limit_val_batches=0)
    # They end every 0.25 s, from 0.25 s on.
    assert [line.split("/")[0] for line in lines()] == ["epoch  1", "epoch  5", "epoch  9", "epoch 10"]


def test_validation_of_an_earlier_epoch_is_not_shown(clock, lines):
    fit(Timed(clock), max_epochs=4, check_val_every_n_epoch=2)
    shown = lines()
    assert ["val/acc" in line for line in shown] == [False, True, False, True]
    assert all("train/late" in line for line in shown)


class Stops(Timed):
    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = self.current_epoch == 1


def test_unknown_total(clock, lines, terminal):
    fit(Stops(clock), max_epochs=-1, stdout=terminal)
    assert [line[:36] for line in lines()] == [
        "epoch 1  step 5  157 samples  train/", "epoch 2  step 10  314 samples  train",
    ]  # fmt: skip
    assert "left" not in terminal.getvalue()


def test_budget_that_ends_in_mid_epoch(clock, lines):
    fit(Timed(clock), max_steps=7)
    shown = lines()
    assert [line[:34] for line in shown] == [
        "epoch 1/2  step 5/7  157 samples  ", "epoch 2/2  step 7/7  221 samples  ",
    ]  # fmt: skip
    assert shown[1].endswith("128 samples/s")


def test_resumed_in_mid_epoch(clock, lines, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=7)
    fit(Timed(clock), Progress(), keep, max_epochs=2, enable_checkpointing=True)
    lines()
    fit(Timed(clock, step=0.5), max_epochs=3, checkpoint=str(tmp_path / "step=7.ckpt"))
    assert [re.sub(r"  train.*  ", "  ", line) for line in lines()] == [
        "epoch 2/3  step 10/15  314 samples  62 samples/s",  # 93 of the epoch's samples were left: in 1.5 s
        "epoch 3/3  step 15/15  471 samples  62.8 samples/s",
    ]


def test_quiet_outside_of_training(clock, lines, terminal):
    run = jobs.trainer(callbacks=[Progress(0)], enable_progress_bar=True)
    with redirect_stdout(terminal):
        run.validate(Timed(clock, validation=0.1), jobs.Data(batch_size=32), verbose=False)
    assert (lines(), terminal.getvalue()) == ([], "")


def test_disabled(clock, lines, terminal):
    bar = Progress(0)
    bar.disable()
    assert not bar.is_enabled
    fit(Timed(clock), bar, max_epochs=1, stdout=terminal)
    assert (lines(), terminal.getvalue()) == ([], "")
    bar.enable()
    fit(Timed(clock), bar, max_epochs=1, stdout=terminal)
    assert len(lines()) == 1


def test_only_the_first_process_speaks():
    bar = Progress()
    bar.setup(jobs.trainer(), jobs.Net(), "fit")
    assert bar.is_enabled
    bar._is_first = False
    bar.enable()  # as the tuner does on every process
    assert not bar.is_enabled


class Speaks(Timed):
    def on_train_batch_end(self, *_: Any) -> None:
        self.print("said")


class Fails(Timed):
    def on_train_batch_end(self, *_: Any) -> None:
        raise RuntimeError("no")


def test_others_write_on_lines_of_their_own(clock, lines, terminal):
    fit(Speaks(clock), max_steps=1, stdout=terminal)
    assert re.search(r"left\r\x1b\[Ksaid\n", terminal.getvalue())


def test_failure_leaves_the_last_line_standing(clock, lines, terminal):
    with pytest.raises(RuntimeError, match="no"):
        fit(Fails(clock), max_steps=1, stdout=terminal)
    assert terminal.getvalue().endswith("left\n")


def test_refuses_a_trainer_without_counters():
    with pytest.raises(InputError, match=r"Progress shows the counters of metronome.training.Trainer"):
        Progress().setup(L.Trainer(logger=False, accelerator="cpu"), jobs.Net(), "fit")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (2.1, "0:03"), (60, "1:00"), (3599.5, "1:00:00"), (3723, "1:02:03")]
)
def test_time_in_words(seconds, shown):
    assert in_words(seconds) == shown
