"""A checkpoint written in the middle of a step is one from before it: a run that goes on makes the step anew."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, OnExceptionCheckpoint
from torchmetrics import Metric

from metronome.training.logged.metrics import modules_of, remember_metrics, state_names
from metronome.training.logged.results import Results
from metronome.training.state import Counters
from metronome.training.step.hooks import is_foreign, is_written

log = logging.getLogger("metronome.training")

_HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
          "on_before_optimizer_step")  # fmt: skip


class MidStep:
    """What a step changes before its update: counters, logged values, torchmetrics, buffers.

    Counters are remembered at each step. The rest costs time, and is where somebody may save then: a callback that
    saves on an exception, or hooks in the middle of a step that are neither this library's nor Lightning's.

    Args:
        trainer: whose steps they are.
        results: where its module logs.
        counters: of the training.
        batches, schedules: Lightning's counters of the epoch's steps, and of those of its schedulers.
    """

    def __init__(self, trainer: L.Trainer, results: Results, counters: Counters, batches: Any, schedules: Any) -> None:
        self.trainer, self.results, self.counters = trainer, results, counters
        self.batches, self.schedules = batches, schedules
        self.remembers = False
        self.counted: tuple[int, int] = (0, 0)  # iterations and samples before the step
        self._at = (-1, -1)
        self._values: dict[str, dict[str, Any]] = {}
        self._buffers: list[tuple[dict[str, Any], str, Any]] = []

    def prepare(self) -> None:
        """Look up, once a fit, whether somebody may save in the middle of a step."""
        self.module = self.trainer.lightning_module
        callbacks: list[Any] = self.trainer.callbacks  # pyright: ignore
        self.remembers = (
            any(saves_on_exception(callback) for callback in callbacks)
            or not self.module.automatic_optimization  # where Lightning's guide has `training_step` save
            or any(_is_foreign_hook(self.module, name, L.LightningModule) for name in _HOOKS)
            or any(_is_foreign_hook(callback, name, Callback) for callback in callbacks for name in _HOOKS)
        )

    def remember(self, epoch: int, step: int) -> None:
        """Called before each step, where somebody may save in it."""
        self.results.arrive()
        self._at, self._changes = (epoch, step), self._changes_of_weights()
        self._values = {key: dict(vars(metric)) for key, metric in self.results.items()}
        self._put_metrics_back = remember_metrics(self.module)
        self._buffers = [
            (owner._buffers, name, None if buffer is None else buffer.detach().clone())
            for owner in modules_of(self.module) for name, buffer in owner._buffers.items()
        ]  # fmt: skip

    @contextmanager
    def left_out(self, epochs: Any) -> Iterator[None]:
        """While it lasts, all is as it was before the step being made, if one is. `epochs` are Lightning's counters."""
        steps, counters, is_last = self.batches.current, self.counters, self.batches.is_last_batch
        if not (epochs.started > epochs.processed and steps.processed == steps.completed):
            if self.schedules.current.ready > self.schedules.current.completed:
                self._warn("schedulers have not, or not all, been stepped in it, and will not be")
            yield  # no epoch has begun, or the update is made
            return
        counted = counters.epochs, counters.iterations, counters.samples
        has_begun = steps.ready > steps.completed
        if has_begun:
            counters.iterations, counters.samples = self.counted
        if steps.completed == 0:
            counters.epochs -= 1  # it is counted where it begins, and will be again
        self.batches.is_last_batch = False
        try:
            with self._as_remembered((epochs.processed, steps.completed)) if has_begun else nullcontext():
                yield
        finally:
            counters.epochs, counters.iterations, counters.samples = counted
            self.batches.is_last_batch = is_last

    @contextmanager
    def _as_remembered(self, at: tuple[int, int]) -> Iterator[None]:
        if self._at != at:
            if seen := self._seen_by():
                self._warn(f"its {seen} have seen the samples of that step, and will see them again")
            yield
            return
        if self._changes != self._changes_of_weights():
            self._warn("its weights have been changed by that step, which will be made again")
        # Others are put in their place: what is in use now stays as it is.
        results, metrics = self.results, [m for m in modules_of(self.module) if isinstance(m, Metric)]
        values_now = {key: (metric, dict(vars(metric))) for key, metric in results.items()}
        metrics_now = [dict(vars(metric)) for metric in metrics]
        buffers_now = [(owner, name, owner[name]) for owner, name, _ in self._buffers]
        self._put_metrics_back()
        for owner, name, buffer in self._buffers:
            owner[name] = buffer
        for key in [key for key in results if key not in self._values]:
            del results[key]
        for key, values in self._values.items():
            vars(results[key]).update(values)
        try:
            yield
        finally:
            for key, (metric, values) in values_now.items():
                vars(metric).update(values)
                dict.__setitem__(results, key, metric)
            for metric, states in zip(metrics, metrics_now, strict=True):
                vars(metric).update(states)
            for owner, name, buffer in buffers_now:
                owner[name] = buffer

    def _warn(self, what: str) -> None:
        step = f"{self.trainer.global_step + 1:,}"
        log.warning(
            "a checkpoint is written in the middle of step %s: %s when a run goes on from it; save in "
            "on_train_batch_end", step, what,
        )  # fmt: skip

    def _changes_of_weights(self) -> list[int]:
        """How often each weight has been changed in place."""
        return [parameter._version for parameter in self.module.parameters()]

    def _seen_by(self) -> str:
        """What the step may have changed already, in words."""
        is_logged = any(metric.meta.on_epoch and not metric.has_reset for metric in self.results.values())
        modules = list(modules_of(self.module))
        has_metrics = any(isinstance(module, Metric) and state_names(module) for module in modules)
        has_buffers = any(True for module in modules if not isinstance(module, Metric) for _ in module._buffers)
        found = [(is_logged, "logged values"), (has_metrics, "torchmetrics"), (has_buffers, "buffers")]
        return " and ".join(word for is_there, word in found if is_there)


def saves_on_exception(callback: Any) -> bool:
    """Whether a callback may save when an error has ended a step."""
    if isinstance(callback, OnExceptionCheckpoint) or getattr(callback, "save_on_exception", False):
        return True
    return _is_foreign_hook(callback, "on_exception", Callback)


def _is_foreign_hook(owner: Any, name: str, base: type) -> bool:
    return is_written(owner, name, base) and is_foreign(owner, name)
