"""The size of the gradient."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from metronome.insight.instruments.log_points import GROUP, Instrument, log_scalars, norms
from metronome.training import Trainer


class GradientNorm(Instrument):
    """Logs `watch/gradient_norm`, the Euclidean norm of the whole batch's gradient, before it is clipped.

    It is taken from the watch for what is not finite, which has to look at every gradient as it is. Where that does not
    look (`trainer.on_nonfinite=ignore`, `16-mixed`) it is worked out at the log point. Of a module that optimizes
    manually there is none, for its gradients need not be of the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._own: Tensor | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self.is_due:
            self.is_due = pl_module.automatic_optimization
            assert isinstance(trainer, Trainer)
            trainer.watch.keeps_norm, self._own = self.is_due, None

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if self.is_due and self._own is None and trainer.watch.norm is None:  # pyright: ignore
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            gradients = [p.grad for p in parameters if p.grad is not None and not p.grad.is_sparse]
            if gradients:
                self._own = torch.linalg.vector_norm(torch.stack(norms(gradients)))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.is_due:
            return
        assert isinstance(trainer, Trainer)
        norm = self._own if trainer.watch.norm is None else trainer.watch.norm
        trainer.watch.keeps_norm, trainer.watch.norm, self._own = False, None, None
        if norm is not None:
            log_scalars(trainer, {f"{GROUP}/gradient_norm": norm.item()})
