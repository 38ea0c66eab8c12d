"""A callback that times a training's first steps, and ends it."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from metronome.app.run.memory import peak_memory_bytes, reset_peak_memory
from metronome.units.step_times import StepTimes

LEAST, MOST = 10, 1_000  # steps to be measured
_WARMUP = 3  # steps, and a quarter of the time: kernels are chosen, memory is taken, a network is compiled
_PER_ON_GPU = 10  # steps from one wait for a GPU to the next


class Enough(Exception):
    """All that was to be measured has been."""


class WatchSteps(Callback):
    """Warms up, times steps for some seconds, lets one validation follow, and leaves the rest of the training.

    A step's time goes from the end of the one before to its own, without validations and saves between: the wait for
    data, the step, and all that callbacks and loggers do after it.

    Args:
        seconds: of steps to be measured. Of steps that take longer than this the second is the measurement.
        validates: whether a validation follows; one that takes longer than this is not gone through to its end.
    """

    def __init__(self, seconds: float, validates: bool = True) -> None:
        self.seconds, self.validates = seconds, validates
        self.within: list[float] = []
        self.across: list[float] = []
        self.validation: float | None = None
        self.saving = 0.0
        self.memory: dict[str, int] = {}
        self._steps = self._since = 0
        self._last: int | None = None  # step after which it ends
        self._first = 0
        self._new_epoch = False

    # ---- steps --------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._gpu = trainer.strategy.root_device.type == "cuda"
        self._per = _PER_ON_GPU if self._gpu else 1
        reset_peak_memory()
        self.memory["before"] = peak_memory_bytes(self._gpu)
        self._began = self._mark = self._now()
        self._saved = _seconds_saving(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._new_epoch = self._steps > 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._steps, self._since = self._steps + 1, self._since + 1
        if self._last is None:
            self._warm_up(trainer)
            return
        if self._steps < self._first:
            return
        if self._steps == self._first:
            self._begin(trainer)
            return
        if self._since >= self._per or self._steps >= self._last:
            now, saved = self._now(), _seconds_saving(trainer)
            took = (now - self._mark - (saved - self._saved)) / self._since
            (self.across if self._new_epoch else self.within).append(took)
            self._mark, self._saved, self._since, self._new_epoch = now, saved, 0, False
        if self._steps >= self._last:
            self._stop(trainer)

    def _stop(self, trainer: Any) -> None:
        if not self.validates:
            raise Enough
        trainer.should_stop = True

    def _warm_up(self, trainer: Any) -> None:
        """Time a step, and decide how many more warm up and how many are measured: the first process for all."""
        now = self._now()
        step, self._mark = now - self._mark, now
        left = trainer.estimated_stepping_batches - self._steps
        if left > 0 and (
            self._steps == 1 or (self._steps < _WARMUP and not trainer.strategy.broadcast(step > self.seconds))
        ):
            return
        warm, count = round(self.seconds / 4 / step), max(LEAST, min(MOST, round(self.seconds / step)))
        if warm + count > left:  # a short training
            warm, count = 0, left
        if step > self.seconds or not left:
            warm, count = 0, 0  # so slow a step is its own measurement
            self.within.append(step)
        elif step * LEAST > self.seconds:
            warm, count = 0, max(1, round(self.seconds / step))
        warm, count = trainer.strategy.broadcast((warm, count))
        self._first = self._steps + warm
        self._last = self._first + (max(count, self._per) if count else 0)
        if not warm:
            self._begin(trainer)
        if not count:
            self._stop(trainer)

    def _begin(self, trainer: Any) -> None:
        self._mark, self._saved, self._since, self._new_epoch = self._now(), _seconds_saving(trainer), 0, False

    # ---- the validation after them ------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self._validation_began, self._batches, self._saved_before = self._now(), 0, _seconds_saving(trainer)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.sanity_checking:
            return
        self._batches += 1
        took = time.perf_counter() - self._validation_began
        if took > self.seconds and self._is_over:
            batches = sum(trainer.num_val_batches)
            self.validation = (self._now() - self._validation_began) * max(batches / self._batches, 1.0)
            self.saving = _time_to_save(trainer) if trainer.world_size == 1 else 0.0
            raise Enough

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        took = self._now() - self._validation_began - (_seconds_saving(trainer) - self._saved_before)
        self.validation = took if self.validation is None or self._is_over else self.validation
        self._mark, self._saved, self._since = self._now(), _seconds_saving(trainer), 0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.validation is not None and hasattr(self, "_saved_before"):
            self.saving = _seconds_saving(trainer) - self._saved_before
        raise Enough  # before anything is made of a training that was none

    @property
    def _is_over(self) -> bool:
        return self._last is not None and self._steps >= self._last

    # ---- what it came to ----------------------------------------------------------------------------------------

    def result(self, trainer: Any) -> dict[str, Any]:
        """Seconds, and bytes, as plain numbers."""
        trained = [p for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
        state = [v for o in trainer.optimizers for s in o.state.values() for v in s.values() if torch.is_tensor(v)]
        module = trainer.lightning_module
        memory = self.memory | {
            "peak": peak_memory_bytes(self._gpu),
            "parameters": _bytes(module.parameters()),
            "gradients": _bytes(p for p in trained if p.requires_grad),
            "optimizer": _bytes(state),
        }
        times = StepTimes.of(self.within, self.across, self._per) if self.within or self.across else None
        return {
            "times": times,
            "validation": self.validation,
            "saving": self.saving,
            "memory": memory,
            "accumulate": trainer.accumulate,
            "on_gpu": self._gpu,
            "threads": torch.get_num_threads(),
        }

    def _now(self) -> float:
        if self._gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def _seconds_saving(trainer: Any) -> float:
    return sum(getattr(callback, "seconds_saving", 0.0) for callback in trainer.checkpoint_callbacks)


def _time_to_save(trainer: Any) -> float:
    """Of one checkpoint, where the training would keep any after a validation."""
    folder = next((callback.dirpath for callback in trainer.checkpoint_callbacks if callback.dirpath), None)
    if folder is None:
        return 0.0
    began = time.perf_counter()
    trainer.save_checkpoint(Path(folder) / "measured.ckpt")
    return time.perf_counter() - began


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
