"""The learning-rate schedulers that are stepped after each step, without a look at all that they could be."""

from typing import Any

import lightning as L

from metronome.training.step.hooks import Hooks, is_written


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
