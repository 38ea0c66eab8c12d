"""The loss of a batch over several devices: brought together only where somebody looks at it."""

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.optim import LBFGS, Optimizer

from metronome.training.place import data_devices, data_group
from metronome.training.sharded import ShardedStrategy


def looks_at_its_loss(optimizer: Optimizer | None) -> bool:
    """Whether an optimizer goes by the value of its closure: of PyTorch's only L-BFGS; of others it is not known."""
    return isinstance(optimizer, LBFGS) or not type(optimizer).__module__.startswith(("torch.optim", "metronome."))


def mean_over_devices(trainer: L.Trainer, value: Tensor) -> Tensor:
    """The mean of a number over all devices, which must call it together, and wait."""
    if not isinstance(trainer.strategy, DDPStrategy | ShardedStrategy):
        return trainer.strategy.reduce(value, reduce_op="mean")  # pyright: ignore
    # Lightning's way has a barrier before it.
    value = value.clone()
    distributed.all_reduce(value, group=data_group(trainer))
    return value.div_(data_devices(trainer))
