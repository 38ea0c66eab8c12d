"""Where the time of a step goes."""

from itertools import pairwise
from typing import Any

import lightning as L
from torch.optim import Optimizer

from metronome.insight.instruments.log_points import GROUP, Instrument, log_scalars
from metronome.insight.marks import mark, milliseconds

PARTS = ("data", "forward_backward", "optimizer", "rest")


class StepTime(Instrument):
    """Logs `watch/ms_data`, `watch/ms_forward_backward`, `watch/ms_optimizer` and `watch/ms_rest`, in milliseconds.

    - data: a batch is fetched (waited for, where workers read ahead) and brought to the device;
    - forward_backward: all micro-batches, and what looks at the gradient;
    - optimizer: clipping, the update, schedulers that go by steps;
    - rest: between two steps: loggers, checkpoints, signals. Not where there was a validation.

    They are of one step, the last before a log point, so that the other instruments are not in them. On a CPU by the
    clock. On a GPU by its own clock, between marks put into its stream: what it does while the program is elsewhere
    counts, and what the program does behind its back does not; they are read at the log point.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on_gpu = self._is_timed = False
        self._trainer: Any = None
        self._marks: list[Any] = []
        self._end: Any = None  # of the step before
        self._done: list[Any] = []  # the marks of a step, until they are logged
        self._sums: dict[str, list[float]] = {}  # of each part, how often and how long

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._on_gpu = trainer.strategy.root_device.type == "cuda"
        self._is_timed, self._end, self._done, self._sums = False, None, [], {}
        if self._every:
            self._trainer = trainer
            trainer.fit_loop.epoch_loop.around_batches = self._timed_batches  # pyright: ignore

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.fit_loop.epoch_loop.around_batches = None  # pyright: ignore

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._trainer, self._marks, self._end, self._done = None, [], None, []

    def _timed_batches(self, batches: Any) -> "_TimedBatches":
        return _TimedBatches(batches, self)

    def begin(self) -> None:
        """A batch is about to be fetched."""
        self._is_timed = (self._trainer.logged_step + (1 if self._every == 1 else 2)) % self._every == 0
        if self._is_timed:
            self._marks = [self._end, mark(self._on_gpu)]
        self._end = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._is_timed:
            self._marks.append(mark(self._on_gpu))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if self._is_timed and len(self._marks) == 3:
            self._marks.append(mark(self._on_gpu))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._every:
            return
        if self._is_timed:
            self._is_timed, self._done = False, [*self._marks, mark(self._on_gpu)]
        if (self._trainer.logged_step + (2 if self._every == 1 else 3)) % self._every == 0:
            self._end = mark(self._on_gpu)  # the next step is timed
        if self.is_due and self._done:
            found, self._done = self._milliseconds(), []
            log_scalars(trainer, found)
            for name, value in found.items():
                count, total = self._sums.get(name, (-1, 0.0))  # not the first, which warms up
                self._sums[name] = [count + 1, total + value * (count >= 0)]

    def means(self) -> dict[str, float]:
        """Milliseconds of each part in a step of this training, over those that were timed but the first."""
        return {name.rpartition("ms_")[2]: total / count for name, (count, total) in self._sums.items() if count > 0}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end = None

    def _milliseconds(self) -> dict[str, float]:
        """The parts that are known. A step that was left out before its update has no part of its own for it."""
        end, *marks = self._done
        parts = dict(zip(PARTS, (milliseconds(a, b) for a, b in pairwise(marks)), strict=False))
        if end is not None:
            parts["rest"] = milliseconds(end, marks[0])
        return {f"{GROUP}/ms_{name}": value for name, value in parts.items()}


class _TimedBatches:
    """The batches of an epoch; says when one is about to be fetched."""

    def __init__(self, batches: Any, clock: StepTime) -> None:
        self.batches, self.clock = batches, clock

    def next(self) -> tuple[Any, bool]:
        self.clock.begin()
        return self.batches.next()
