"""The phases of a step and of its epoch's end, in their order: a checkpoint says with which one its run goes on."""

from enum import StrEnum
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer


class Phase(StrEnum):
    """What comes next. The words are those in checkpoints: what was still to be done there."""

    MAKE = "nothing"  # a new step, from its first hook to its last; a step cut off in it is made again
    LOG = "step"  # the values of the step; a checkpoint written in `on_train_batch_end` goes on here
    VALIDATE = "validation"  # if it is due; those written between two steps
    CLOSE = "end"  # schedulers that wait for the validation; those written in `on_validation_end`
    LOG_EPOCH = "epoch"  # epoch schedulers, and the values of the epoch; those written in `on_train_epoch_end`


OF_A_STEP = (Phase.MAKE, Phase.LOG, Phase.VALIDATE, Phase.CLOSE)


def phase_left(phase: Phase, steps: Any, epochs: Any, is_judged: bool) -> Phase:
    """With which phase a checkpoint written now goes on.

    Args:
        phase: the one being run.
        steps, epochs: Lightning's counters of this epoch's steps, and of the epochs.
        is_judged: whether the validation has come to its end.
    """
    if epochs.processed > epochs.completed and phase is Phase.MAKE:
        return Phase.LOG_EPOCH
    if steps.processed > steps.completed:
        return Phase.LOG
    return Phase.CLOSE if phase is Phase.VALIDATE and is_judged else phase


def phase_of_lightning(steps: Any, epochs: Any) -> Phase:
    """The same for a checkpoint of Lightning's own Trainer, as far as its counters tell."""
    if epochs.processed > epochs.completed:
        return Phase.LOG_EPOCH
    if steps.processed > steps.completed:
        return Phase.LOG
    return Phase.CLOSE if steps.completed and epochs.started > epochs.processed else Phase.MAKE


def has_reason_to_stop(trainer: L.Trainer) -> bool:
    """Whether early stopping has ended the run. A time that is up is no reason for the run that goes on."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore
    left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    time_is_up = any(seconds is not None and seconds <= 0 for seconds in left)
    return trainer.should_stop and not time_is_up and any(isinstance(c, EarlyStopping) for c in callbacks)
