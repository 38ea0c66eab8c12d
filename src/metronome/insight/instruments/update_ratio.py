"""How far a step moves the weights."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from metronome.insight.instruments.log_points import GROUP, Instrument, log_scalars, norms, numbered, read


class UpdateRatio(Instrument):
    """Logs `watch/update_ratio`, |w' - w| / |w| of a step: the norm of the update over that of the weights before it.

    With several parameter groups `watch/update_ratio/0`, `/1`, ..., counted over all optimizers. About 1e-3 is usual;
    far more is a rate too high, far less one too low. The weights are copied when the gradients are there, at a log
    point only: at that moment what the backward pass needed is free again. All is worked out on the device. Where a
    strategy shards weights nothing is measured.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[int, list[list[Tensor]]] = {}  # the weights by optimizer and group

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        # The first time in a step: L-BFGS evaluates the batch at weights that it tries.
        if self.is_due and _number(trainer, optimizer) not in self._before and _holds_all(trainer):
            copies = [[p.detach().clone() for p in group] for group in _weights(optimizer)]
            self._before[_number(trainer, optimizer)] = copies

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._before:
            return
        ratios: list[Tensor] = []
        for optimizer in trainer.optimizers:
            copies = self._before.get(_number(trainer, optimizer), [])
            for before, now in zip(copies, _weights(optimizer), strict=bool(copies)):
                updates = torch._foreach_sub([p.detach() for p in now], before)  # pyright: ignore
                sizes = torch.stack(norms([*updates, *before])) if before else torch.zeros(2, dtype=torch.float64)
                update, weight = sizes.reshape(2, -1).square().sum(dim=1).sqrt()
                ratios.append(update / weight)
        self._before = {}
        log_scalars(trainer, numbered(f"{GROUP}/update_ratio", read(ratios)))


def _weights(optimizer: Optimizer) -> list[list[Tensor]]:
    return [[p for p in group["params"] if p.requires_grad] for group in optimizer.param_groups]


def _number(trainer: L.Trainer, optimizer: Optimizer) -> int:
    """The optimizer's place among the trainer's; hooks may be given it in Lightning's wrapper."""
    own = getattr(optimizer, "optimizer", optimizer)
    return next(i for i, other in enumerate(trainer.optimizers) if other is own or other is optimizer)


def _holds_all(trainer: L.Trainer) -> bool:
    return isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
