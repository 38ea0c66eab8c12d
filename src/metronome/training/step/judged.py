"""Schedulers that look themselves at what a validation has measured, whatever module has made them.

Such a one goes by steps, and has a method `judge` that takes the metrics: `metronome.models.schedulers.Plateau`.
"""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from metronome.units import InputError


def judge(trainer: L.Trainer) -> None:
    """At the end of a validation in a fit, before checkpoints are written that take it for done."""
    if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
        for config in _judged(trainer):
            config.scheduler.judge(trainer.callback_metrics)


def check_judged(trainer: L.Trainer) -> None:
    """Raises InputError if one is not stepped after each step, or if there is no validation to judge it by."""
    for config in _judged(trainer):
        name, module = type(config.scheduler).__name__, trainer.lightning_module
        by_step = config.interval == "step" and config.frequency == 1 and not config.reduce_on_plateau
        if module.automatic_optimization and not by_step:
            raise InputError(
                f"scheduler {name} goes by steps, and {type(module).__name__} has it stepped otherwise; let "
                'configure_optimizers return it with "interval": "step", and no frequency or reduce_on_plateau'
            )
        has_data = trainer.val_dataloaders is None or sum(trainer.num_val_batches) > 0  # None: not asked for yet
        if not (trainer.enable_validation and has_data):
            raise InputError(
                f"scheduler {name} looks at a metric at each validation, and there is none; use another scheduler, or "
                "give validation data, and trainer.limit_val_batches above 0"
            )


def _judged(trainer: L.Trainer) -> list[Any]:
    return [config for config in trainer.lr_scheduler_configs if callable(getattr(config.scheduler, "judge", None))]
