"""Where the seconds of a training go: to its steps, to its validations, to its checkpoints."""

import time
from typing import Any

from lightning.pytorch.callbacks import Callback


class Clock(Callback):
    """From the first step to the last, how long validations take and checkpoints are saved; the rest is training.

    Read at the beginning and the end of a validation, never at a step. What is before the first step (the sanity check,
    data and networks brought to their devices) and after the last is no training. On a GPU, steps that are still in its
    queue when a validation begins count as validation: at most those since the last point that was logged.
    """

    def __init__(self) -> None:
        self._began = self._ended = self._validation_began = None
        self._validation = self._saved_before = self._saved = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._saved_before = _seconds_saving(trainer)
        self._began = time.monotonic()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        # Before checkpoints, which come last among callbacks.
        if self._validation_began is not None:
            self._validation += time.monotonic() - self._validation_began
            self._validation_began = None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end(trainer)

    def _end(self, trainer: Any) -> None:
        if self._began is not None and self._ended is None:
            self.on_validation_end(trainer, None)  # one that was cut off
            self._ended, self._saved = time.monotonic(), _seconds_saving(trainer) - self._saved_before

    @property
    def seconds(self) -> dict[str, float]:
        """`train`, `validation` and `saving`, in seconds; nothing where no step was begun."""
        if self._began is None or self._ended is None:
            return {}
        train = self._ended - self._began - self._validation - self._saved
        return {"train": max(train, 0.0), "validation": self._validation, "saving": self._saved}


def seconds_of(trainer: Any) -> dict[str, float]:
    """What the clock of a Trainer has measured."""
    return next((callback.seconds for callback in trainer.callbacks if isinstance(callback, Clock)), {})


def _seconds_saving(trainer: Any) -> float:
    return sum(getattr(callback, "seconds_saving", 0.0) for callback in trainer.checkpoint_callbacks)
