"""The learning rate, at the very steps whose metrics are logged."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from metronome.training import Trainer


class LearningRate(Callback):
    """Logs `lr`, the rate of the update, every `log_every_n_steps` steps, beside that step's metrics.

    Parameter groups of different rates are logged as `lr/0`, `lr/1`, ..., counted over all optimizers.
    """

    def __init__(self) -> None:
        self._numbered = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._numbered = False

    def state_dict(self) -> dict[str, Any]:
        return {"numbered": self._numbered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._numbered = state_dict["numbered"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Read before the update: after it the scheduler has already set the next step's rate.
        if not trainer.loggers or not isinstance(trainer, Trainer) or not trainer.logs_this_step:
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rates = [float(group["lr"]) for group in groups if "lr" in group]
        if not rates:
            return
        # Curves that part stay apart, also where they cross again.
        self._numbered = self._numbered or len(set(rates)) > 1
        scalars = {f"lr/{i}": rate for i, rate in enumerate(rates)} if self._numbered else {"lr": rates[0]}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.logged_step)
