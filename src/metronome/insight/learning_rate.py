"""The learning rate, at the very steps whose metrics are logged."""

from typing import Any

import lightning as L

from metronome.insight.instruments.log_points import StaysApart, groups_of, log_scalars
from metronome.training import Trainer


class LearningRate(StaysApart):
    """Logs `lr`, the rate of the update, every `log_every_n_steps` steps, beside that step's metrics.

    Parameter groups of different rates are logged as `lr/0`, `lr/1`, ..., counted over all optimizers.
    """

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Read before the update: after it the scheduler has already set the next step's rate.
        if not trainer.loggers or not isinstance(trainer, Trainer) or not trainer.logs_this_step:
            return
        rates = [float(group["lr"]) for group in groups_of(trainer) if "lr" in group]
        if rates:
            log_scalars(trainer, self.named("lr", rates))
