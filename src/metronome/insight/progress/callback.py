"""The progress of a training on the console, in exact counters."""

import logging
import shutil
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from metronome.insight.live_values import LiveValues
from metronome.insight.progress.lines import PLAIN_COLUMNS, Parts, clock, epoch_line, live_line, of
from metronome.insight.progress.time_left import JobOfSweep, TimeLeft
from metronome.training import Trainer
from metronome.units import InputError, Plan

log = logging.getLogger("metronome.progress")

ERASE_LINE = "\r\x1b[K"
REDRAW_SECONDS = 0.2


class Progress(ProgressBar):
    """A line for each epoch, and on a terminal a live line of the step in between.

    Epochs' lines go to the logger `metronome.progress`. They show the metrics logged with `prog_bar=True`,
    those of the validation only if it was in this epoch, and the samples per second over all devices in the
    time spent training in this epoch. Only the first process speaks.

    The live line has a bar and the time left of the whole budget, in a sweep of the whole sweep; in validation
    and test it says how far these are. It is as wide as the terminal, lines of epochs too; where there is no
    terminal, these have 80 columns.

    Args:
        every_seconds: the least seconds between the lines of two epochs; the first and the last epoch always
            have theirs.

    Attributes:
        job: which job of a sweep the run is, if it is one.
        may_draw: whether there may be a live line; not where others write to the same terminal.

    Raises:
        InputError: where the Trainer is not Metronome's.
    """

    def __init__(self, every_seconds: float = 1.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.job: JobOfSweep | None = None
        self.may_draw = True
        self._enabled = True
        self._is_first = True  # of the run's processes
        self._plan: Plan | None = None
        self._time_left: TimeLeft | None = None  # while it trains
        self._is_live = False  # whether there is a terminal for the live line
        self._is_drawn = False
        self._drawn_at = 0.0
        self._logged_at: float | None = None
        # this epoch: whether it is over and has no line yet, and how fast it is
        self._line_due = False
        self._samples_before = 0
        self._seconds, self._since = 0.0, 0.0
        self._live_values = LiveValues()
        # which of the metrics are the validation's, and whether they are of this epoch
        self._names_before: set[str] = set()
        self._validation_names: set[str] = set()
        self._is_validated = False
        # the evaluation that goes on: how many of its batches are done; and how long the last took
        self._batches_done = 0
        self._evaluation_since, self._evaluation_seconds = 0.0, float("inf")

    # ---- what Lightning asks of a progress bar -----------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self._is_first

    def disable(self) -> None:
        self._erase()
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        self._erase()
        print(*args, **kwargs)

    # ---- the hooks of a training ---------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(trainer, Trainer):
            raise InputError(
                "Progress shows the counters of metronome.training.Trainer, and this is another Trainer; "
                "use that one, or Lightning's TQDMProgressBar"
            )
        super().setup(trainer, pl_module, stage)
        self._is_first = trainer.is_global_zero
        self._is_live = self.may_draw and sys.stdout.isatty()
        self._time_left, self._drawn_at = None, monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        # On every device, since all may have to meet to load a foreign loader.
        self._plan = trainer.plan
        self._drawn_at, self._logged_at, self._line_due = monotonic(), None, False
        self._time_left = TimeLeft(trainer, self._plan, self.job, self._drawn_at)
        self._live_values = LiveValues()
        self._begin_epoch(trainer)  # one that is resumed has no start of its own

    def on_train_epoch_start(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        if self._logged_at is None or monotonic() - self._logged_at >= self.every_seconds:
            self._log_epoch(trainer)
        self._begin_epoch(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = monotonic()
        self._seconds += now - self._since
        self._since = now
        if self._is_live and now - self._drawn_at >= REDRAW_SECONDS and self.is_enabled:
            self._draw(trainer, now)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._names_before = set(trainer.progress_bar_metrics)
        self._begin_evaluation(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._evaluated_batch(trainer, "validating", trainer.num_val_batches)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_names |= set(trainer.progress_bar_metrics) - self._names_before
        self._is_validated = True
        self._since = monotonic()
        self._evaluation_seconds = self._since - self._evaluation_since
        if self._time_left is None:
            self._erase()

    def on_test_start(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        self._begin_evaluation(trainer)

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._evaluated_batch(trainer, "testing", trainer.num_test_batches)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._erase()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        # The line waits for the next hook. Here epoch means are not computed yet, and to ask for them on one
        # device alone would hang several; what the module logs in its `on_train_epoch_end` comes later too.
        self._line_due = True

    def on_train_end(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        self._log_epoch(trainer)
        self._erase()
        self._time_left = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._is_drawn:
            # What went wrong is told below the line that says where.
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._is_drawn = False

    def _begin_epoch(self, trainer: Trainer) -> None:
        assert self._time_left is not None
        self._line_due, self._is_validated = False, False
        self._samples_before = trainer.counters.samples
        self._seconds, self._since = 0.0, monotonic()
        self._time_left.begin_epoch(self._since)

    # ---- validation and test -------------------------------------------------------------------------

    def _begin_evaluation(self, trainer: L.Trainer) -> None:
        self._batches_done, self._evaluation_since = 0, monotonic()
        # Its first batch may take long. Where the last validation was a moment, so is this one.
        may_be_long = self._evaluation_seconds >= REDRAW_SECONDS
        if self._is_live and self._time_left is not None and may_be_long and self.is_enabled:
            self._draw(trainer, self._evaluation_since, "validating 0%")

    def _evaluated_batch(self, trainer: Trainer, doing: str, batches: Any) -> None:
        self._batches_done += 1
        now = monotonic()
        if not self._is_live or now - self._drawn_at < REDRAW_SECONDS or not self.is_enabled:
            return
        if trainer.sanity_checking:
            doing, batches = "checking the validation", trainer.num_sanity_val_batches
        total = sum(batches) if isinstance(batches, list) else batches
        is_known = 0 < total < float("inf")
        how_far = f"{100 * self._batches_done // total:.0f}%" if is_known else f"batch {self._batches_done:,}"
        self._draw(trainer, now, f"{doing} {how_far}")

    # ---- the lines --------------------------------------------------------------------------------------

    def _log_epoch(self, trainer: Trainer) -> None:
        if not self._line_due or not self.is_enabled:
            return
        self._line_due = False
        self._erase()
        metrics = trainer.progress_bar_metrics
        if not self._is_validated:
            metrics = {name: value for name, value in metrics.items() if name not in self._validation_names}
        parts = self._parts(trainer)
        parts.metrics = self._sorted(metrics)
        log.info(epoch_line(parts, shutil.get_terminal_size().columns if self._is_live else PLAIN_COLUMNS))
        self._logged_at = monotonic()

    def _draw(self, trainer: Any, now: float, state: str = "") -> None:
        self._drawn_at = now
        parts = Parts() if self._time_left is None else self._parts(trainer)
        parts.state = state
        if not state:
            parts.metrics = self._sorted(self._live_values.of(trainer.step_metrics))
        if self._time_left is not None:
            left, parts.done = self._time_left.of_all(now)
            of_sweep = self.job is not None and self.job.jobs is not None
            parts.left = "" if left is None else f"{clock(left)} left{' in all' if of_sweep else ''}"
        if self.job is not None:
            parts.job = f"job {of(self.job.number, self.job.jobs)}"
        # A terminal whose last column is filled may go on to the next line.
        columns = shutil.get_terminal_size().columns - 1
        sys.stdout.write(ERASE_LINE + live_line(parts, columns, _ends_of_bar()))
        sys.stdout.flush()
        self._is_drawn = True

    def _erase(self) -> None:
        if self._is_drawn:
            sys.stdout.write(ERASE_LINE)
            sys.stdout.flush()
            self._is_drawn = False

    # ---- their parts --------------------------------------------------------------------------------------

    def _parts(self, trainer: Trainer) -> Parts:
        plan, counters = self._plan, trainer.counters
        epochs, steps, samples = (plan.epochs, plan.total_steps, plan.total_samples) if plan else (None,) * 3
        width = 0 if samples is None else len(f"{samples:,}")
        return Parts(
            epoch=f"epoch {of(counters.epochs, epochs)}",
            step=f"step {of(trainer.global_step, steps)}",
            samples=f"{counters.samples:{width},} samples",
            speed=self._speed(trainer),
        )

    def _sorted(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """The most important first: losses of the training, then what the validation has found, then the rest."""

        def place(name: str) -> tuple[int, bool]:
            is_loss, is_validation = "loss" in name.lower(), name in self._validation_names
            return (1 if is_validation else 0 if is_loss else 2), not is_loss

        return {name: metrics[name] for name in sorted(metrics, key=place)}

    def _speed(self, trainer: Trainer) -> str:
        samples = trainer.counters.samples - self._samples_before
        if not samples or not self._seconds:
            return ""
        three_digits = float(f"{samples / self._seconds:.3g}")
        return f"{three_digits:,.10g} samples/s"


def _ends_of_bar() -> str:
    try:
        "█░".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return "#-"
    return "█░"
