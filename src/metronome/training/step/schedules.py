"""The learning-rate schedulers that are stepped after each step, and those that look themselves at a validation.

The latter go by steps, and have a method `judge` that takes the metrics: `metronome.models.schedulers.Plateau`.
"""

from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from metronome.training.checkpoints.monitored import settle
from metronome.training.step.hooks import Hooks, is_written
from metronome.units import InputError


class Schedules:
    """Steps schedulers straight where each goes by every step, looks at no metric, and the module has no say in it."""

    def __init__(self, trainer: L.Trainer, hooks: Hooks) -> None:
        configs = trainer.lr_scheduler_configs if trainer.lightning_module.automatic_optimization else []
        self._are_none = not configs
        self.wait_for_validation = any(config.reduce_on_plateau for config in configs)
        by_step = all(c.interval == "step" and c.frequency == 1 and not c.reduce_on_plateau for c in configs)
        has_say = is_written(trainer.lightning_module, "lr_scheduler_step", L.LightningModule)
        self._plain: list[Any] = configs if by_step and not has_say and not hooks.is_profiled else []

    def step(self, progress: Any) -> bool:
        """Step them all, counted in `progress`. False, and nothing done, where that is not all there is to it."""
        for config in self._plain:
            progress.increment_ready()
            config.scheduler.step()
            progress.increment_completed()
        return bool(self._plain) or self._are_none


def judge(trainer: L.Trainer) -> None:
    """At the end of a validation in a fit, before checkpoints are written that take it for done."""
    if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
        for config in _judged(trainer):
            config.scheduler.judge(trainer.callback_metrics)


def check_judged(trainer: L.Trainer) -> None:
    """Raises InputError if one is not stepped after each step, or if there is no validation to judge it by."""
    for config in _judged(trainer):
        settle(config.scheduler, trainer.lightning_module)
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
