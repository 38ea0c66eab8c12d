"""The test is of the checkpoint that the result names, whatever callbacks do to the weights."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

log = logging.getLogger("metronome")


@contextmanager
def callbacks_leave_the_weights(trainer: L.Trainer, path: str) -> Iterator[None]:
    """While a test runs, weights that a callback puts in place of the checkpoint's are taken back, which one line says.

    Some swap in an average that they keep in memory, that of the last step and not of the checkpoint. What the module
    does to its weights by itself it does wherever the checkpoint is tested, and stays.

    Args:
        trainer: about to test.
        path: the checkpoint.
    """
    here: Any = trainer
    before = _Before()
    pair = [before, _After(before, path)]
    here.callbacks += pair
    try:
        yield
    finally:
        here.callbacks = [callback for callback in here.callbacks if callback not in pair]


class _Before(Callback):
    """Called before the other callbacks: keeps the weights."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.kept = [tensor.detach().clone() for tensor in _weights(pl_module)]

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_test_start(trainer, pl_module)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        if batch_idx == 0:
            self.on_test_start(trainer, pl_module)


class _After(Callback):
    """Called after them, and before the module: puts the weights back."""

    def __init__(self, before: _Before, path: str) -> None:
        self.before, self.path, self.has_said_so = before, path, False

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        # Here the callbacks that the module brings are among them.
        others = [callback for callback in trainer.callbacks if callback not in (self.before, self)]
        trainer.callbacks = [self.before, *others, self]

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        kept, self.before.kept = self.before.kept, []
        changed = False
        for tensor, value in zip(_weights(pl_module), kept, strict=True):
            if not torch.equal(tensor, value):
                tensor.data, changed = value, True  # its own memory may be the callback's by now
        if changed and not self.has_said_so:
            self.has_said_so = True
            log.warning(
                "a callback put other weights in place of those of %s for the test; the test is of the checkpoint; to "
                "test an average let the callback write it into the checkpoint, as Lightning's EMAWeightAveraging does",
                self.path,
            )

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.on_test_start(trainer, pl_module)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        if batch_idx == 0:
            self.on_test_start(trainer, pl_module)


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
