"""What a run was asked for, and what came of it, for TensorBoard's HParams tab: a sweep's runs in one table."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter

from metronome.insight.instruments.log_points import log_scalars
from metronome.training import Trainer

Value = str | bool | int | float
_SUFFIX = ".hparams"  # of the file that they are in


class HParams(Callback):
    """A row of TensorBoard's HParams tab for the run: its choices, the best value of what is monitored, and the last
    ones of the validation and of the test, which are of the best checkpoint.

    At each validation it logs `<monitored>_best`, the best value so far. What is monitored, and whether less is better,
    is as the checkpoint callback says, else `val/loss`.

    The row is in an event file of its own, which each start writes anew: a run that takes another one's curves along
    is not to be listed with the other one's choices.

    Args:
        values: the run's choices by name; the app puts those of its configuration here if there are none.
    """

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self.values = dict(values or {})
        self._best: float | None = None
        self._is_written = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._best, self._is_written = None, False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = state_dict["best"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not isinstance(trainer, Trainer) or trainer.state.fn != TrainerFn.FITTING:
            return
        name, sign = _monitored(trainer)
        if name in trainer.callback_metrics:
            value = float(trainer.callback_metrics[name])
            if math.isfinite(value) and (self._best is None or sign * value < sign * self._best):
                self._best = value
            if self._best is not None:
                log_scalars(trainer, {f"{name}_best": self._best})
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)  # where there was no validation

    def _write(self, trainer: L.Trainer) -> None:
        """Once a start, when it is known what a validation logs."""
        if self._is_written or not trainer.is_global_zero or not self.values:
            return
        self._is_written = True
        best = f"{_monitored(trainer)[0]}_best"
        validated = sorted(name for name in trainer.callback_metrics if name.startswith("val"))
        tested = [f"test{name[3:]}" for name in validated]
        metrics = dict.fromkeys([*([best] if self._best is not None else []), *validated, *tested], 0.0)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for old in Path(logger.log_dir).glob(f"*{_SUFFIX}"):
                    old.unlink()
                writer = FileWriter(logger.log_dir, filename_suffix=_SUFFIX)
                for part in hparams(self.values, metrics):
                    writer.add_summary(part)
                writer.close()


def _monitored(trainer: L.Trainer) -> tuple[str, int]:
    """The metric, and 1 if less of it is better, -1 if more."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            return callback.monitor, 1 if callback.mode == "min" else -1
    return "val/loss", 1
