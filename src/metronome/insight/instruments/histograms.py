"""The spread of weights and gradients, epoch by epoch."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from metronome.training import Trainer
from metronome.training.sharded.tensors import whole
from metronome.units import check_number


class Histograms(Callback):
    """Histograms of each weight tensor (`weights/<name>`) and of its gradient (`gradients/<name>`) in TensorBoard, at
    the end of epochs.

    The gradient is that of the epoch's last step, as its update took it. All of them come from the device.

    Args:
        every_epochs: at the end of each so many epochs.

    Raises:
        InputError: for a number below 1.
    """

    def __init__(self, every_epochs: int = 1) -> None:
        check_number("callbacks.histograms.every_epochs", every_epochs, "epochs")
        self.every_epochs = every_epochs

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not at the end of the epoch: there a validation may have emptied the gradients.
        if not isinstance(trainer, Trainer) or not trainer.is_last_batch or (trainer.epoch + 1) % self.every_epochs:
            return
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for name, parameter in pl_module.named_parameters() if loggers else ():
            for kind, tensor in (("weights", parameter), ("gradients", parameter.grad)):
                tensor = whole(tensor)  # for which all devices meet
                for logger in loggers if trainer.is_global_zero else ():
                    writer: Any = logger.experiment
                    if tensor is not None and tensor.numel() and bool(tensor.isfinite().all()):
                        writer.add_histogram(f"{kind}/{name}", tensor.detach().float(), trainer.logged_step)
