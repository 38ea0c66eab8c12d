"""The progress of a training on the console, in exact counters."""

import logging
import shutil
import sys
from collections import deque
from collections.abc import Mapping
from math import ceil
from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from metronome.insight.live_values import LiveValues
from metronome.training import Trainer
from metronome.units import InputError, Plan

log = logging.getLogger("metronome.progress")

ERASE_LINE = "\r\x1b[K"
REDRAW_SECONDS = 0.2
RECENT_EPOCHS = 3


class Progress(ProgressBar):
    """A line for each epoch, and on a terminal a live line of the step in between.

    Epochs' lines go to the logger `metronome.progress`. They show the metrics logged with `prog_bar=True`,
    those of the validation only if it was in this epoch, and the samples per second over all devices in the
    time spent training in this epoch. Only the first process speaks.

    Args:
        every_seconds: the least seconds between the lines of two epochs; the first and the last epoch always
            have theirs.

    Raises:
        InputError: where the Trainer is not Metronome's.
    """

    def __init__(self, every_seconds: float = 1.0) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self._enabled = True
        self._is_first = True  # of the run's processes
        self._plan: Plan | None = None
        self._is_live = False  # whether there is a terminal for the live line
        self._is_drawn = False
        self._drawn_at = 0.0
        self._logged_at: float | None = None
        # this epoch: whether it is over and has no line yet, and how fast it is
        self._line_due = False
        self._samples_before = 0
        self._seconds, self._since = 0.0, 0.0
        # (seconds, samples) when each of the last epochs began
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_EPOCHS)
        self._live_values = LiveValues()
        # which of the metrics are the validation's, and whether they are of this epoch
        self._names_before: set[str] = set()
        self._validation_names: set[str] = set()
        self._is_validated = False

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

    def on_train_start(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        # On every device, since all may have to meet to load a foreign loader.
        self._plan = trainer.plan
        self._is_live = sys.stdout.isatty()
        self._drawn_at, self._logged_at, self._line_due = monotonic(), None, False
        self._recent.clear()
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
            self._drawn_at = now
            self._draw(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._names_before = set(trainer.progress_bar_metrics)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_names |= set(trainer.progress_bar_metrics) - self._names_before
        self._is_validated = True
        self._since = monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        # The line waits for the next hook. Here epoch means are not computed yet, and to ask for them on one
        # device alone would hang several; what the module logs in its `on_train_epoch_end` comes later too.
        self._line_due = True

    def on_train_end(self, trainer: Trainer, pl_module: L.LightningModule) -> None:
        self._log_epoch(trainer)
        self._erase()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._is_drawn:
            # What went wrong is told below the line that says where.
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._is_drawn = False

    def _begin_epoch(self, trainer: Trainer) -> None:
        self._line_due, self._is_validated = False, False
        self._samples_before = trainer.counters.samples
        self._seconds, self._since = 0.0, monotonic()
        self._recent.append((self._since, self._samples_before))

    # ---- the lines --------------------------------------------------------------------------------------

    def _log_epoch(self, trainer: Trainer) -> None:
        if not self._line_due or not self.is_enabled:
            return
        self._line_due = False
        self._erase()
        metrics = trainer.progress_bar_metrics
        if not self._is_validated:
            metrics = {name: value for name, value in metrics.items() if name not in self._validation_names}
        parts = [*self._counters(trainer), *self._metrics(metrics), *self._speed(trainer)]
        log.info("  ".join(parts).rstrip())
        self._logged_at = monotonic()

    def _draw(self, trainer: Trainer) -> None:
        metrics = self._live_values.of(trainer.step_metrics)
        parts = [
            *self._counters(trainer),
            *self._metrics(metrics),
            *self._speed(trainer),
            *self._left(trainer),
        ]
        # A terminal whose last column is filled may go on to the next line.
        width = shutil.get_terminal_size().columns - 1
        sys.stdout.write(ERASE_LINE + "  ".join(parts)[:width])
        sys.stdout.flush()
        self._is_drawn = True

    def _erase(self) -> None:
        if self._is_drawn:
            sys.stdout.write(ERASE_LINE)
            sys.stdout.flush()
            self._is_drawn = False

    # ---- their parts --------------------------------------------------------------------------------------

    def _counters(self, trainer: Trainer) -> list[str]:
        plan, counters = self._plan, trainer.counters
        epochs, steps, samples = (plan.epochs, plan.total_steps, plan.total_samples) if plan else (None,) * 3
        width = 0 if samples is None else len(f"{samples:,}")
        return [
            f"epoch {_of(counters.epochs, epochs)}",
            f"step {_of(trainer.global_step, steps)}",
            f"{counters.samples:{width},} samples",
        ]

    def _metrics(self, metrics: Mapping[str, Any]) -> list[str]:
        training_first = sorted(metrics, key=lambda name: name in self._validation_names)
        return [f"{name} {metrics[name]:<6.4g}" for name in training_first]

    def _speed(self, trainer: Trainer) -> list[str]:
        samples = trainer.counters.samples - self._samples_before
        if not samples or not self._seconds:
            return []
        three_digits = float(f"{samples / self._seconds:.3g}")
        return [f"{three_digits:,.10g} samples/s"]

    def _left(self, trainer: Trainer) -> list[str]:
        """The time left, at the speed of the last epochs with all that goes on in them, validation too."""
        then, samples_then = self._recent[0]
        samples = trainer.counters.samples
        if self._plan is None or self._plan.total_samples is None or samples == samples_then:
            return []
        seconds_per_sample = (self._since - then) / (samples - samples_then)
        return [f"{_clock(max(0, self._plan.total_samples - samples) * seconds_per_sample)} left"]


def _of(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:{len(f'{total:,}')},}/{total:,}"


def _clock(seconds: float) -> str:
    """Minutes and seconds, or hours too.

    >>> _clock(2.1), _clock(3723)
    ('0:03', '1:02:03')
    """
    minutes, seconds = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
