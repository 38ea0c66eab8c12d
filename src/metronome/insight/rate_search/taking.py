"""A rate put in the place of the one that a training was configured with, before its first step."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from torch import Tensor

from metronome.units import InputError

# Where optimizers and schedulers of PyTorch keep rates: of a group, of a scheduler.
_OF_A_GROUP = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
_OF_A_SCHEDULER = ("base_lrs", "_last_lr", "max_lrs")


def take(trainer: L.Trainer, factor: float) -> None:
    """Multiply every rate, of groups and schedules, by this.

    Raises:
        InputError: for a scheduler that keeps its rates in a way of its own.
    """
    optimizer: Any = trainer.optimizers[0]
    schedulers = [each for config in trainer.lr_scheduler_configs for each in _all(config.scheduler)]
    for scheduler in schedulers:
        if not type(scheduler).__module__.startswith(("torch.optim", "metronome.")):
            raise InputError(
                f"{type(scheduler).__name__} may keep rates of its own, and none can be put in their place; give the "
                "rate that was found in the configuration"
            )
    for group in optimizer.param_groups:
        for name in [name for name in _OF_A_GROUP if name in group]:
            if isinstance(group[name], Tensor):
                group[name].mul_(factor)
            else:
                group[name] *= factor
    for scheduler in schedulers:
        for name in [name for name in _OF_A_SCHEDULER if name in vars(scheduler)]:
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])


def _all(scheduler: Any) -> Iterator[Any]:
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _all(inner)
