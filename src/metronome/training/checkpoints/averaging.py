"""A run with Lightning's StochasticWeightAveraging goes on: its scheduler is put in the place of the module's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor
from torch.optim import Optimizer


def averaging(trainer: L.Trainer) -> StochasticWeightAveraging | None:
    """The callback, if the checkpoint that was restored is of a run whose averaging had begun: the scheduler in it is
    the callback's, which restores it itself, and has taken the module's own away."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore
    found = [callback for callback in callbacks if isinstance(callback, StochasticWeightAveraging)]
    return next((callback for callback in found if callback._scheduler_state is not None), None)


def is_renewing_batch_norm(trainer: L.Trainer, callback: StochasticWeightAveraging) -> bool:
    """Whether the checkpoint was written in the pass over the data that gives BatchNorm the means of the averaged
    weights; the callback keeps nothing of it."""
    epochs = trainer.fit_loop.epoch_progress.current
    return bool(callback._model_contains_batch_norm) and epochs.ready > callback.swa_end + 1


def go_on_in_mid_epoch(trainer: L.Trainer, callback: StochasticWeightAveraging) -> None:
    """Let it begin where `on_train_epoch_start` is over and will not be called; the epoch's weights are averaged once,
    as it remembers."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    if epochs.started > epochs.processed:
        with _rates_as_before(trainer.optimizers[0]):
            callback.on_train_epoch_start(trainer, trainer.lightning_module)


@contextmanager
def _rates_as_before(optimizer: Optimizer) -> Iterator[None]:
    """A scheduler that is made changes them; those of the checkpoint are there already."""
    rates = [rate.clone() if isinstance(rate := group["lr"], Tensor) else rate for group in optimizer.param_groups]
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate
