"""What each micro-batch weighs in its batch: its part of what the loss of the whole batch is a mean over.

The gradient of a batch is sum(n_k g_k) / sum(n_k) over micro-batches and devices, where g_k is the gradient of the mean
loss of micro-batch k, and n_k what that mean divides by: its samples, unless the module says otherwise in a method

    def loss_weight(self, batch): ...

which is given a batch, or any part of one, where the module is, and returns a number, or a tensor of one: the tokens in
it, the labels that are counted, the sum of their class weights; or None, if its loss is a sum and no mean. What is
logged in a step weighs the same, in training and in evaluation, unless `self.log` is given a `batch_size`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, distributed

from metronome.training.batches.cut import times_weight
from metronome.training.place import data_devices, data_group
from metronome.training.precise import most_precise
from metronome.training.sharded import ShardedStrategy
from metronome.units import InputError

Number = int | float | Tensor


class Weight(NamedTuple):
    """Of a micro-batch.

    Attributes:
        divisor: what its mean loss divides by, and what is logged in it weighs.
        factor: what its loss is to be multiplied by, so that the mean over the devices of their sums is the loss of
            the whole batch.
    """

    divisor: Number
    factor: Number


class Weights:
    """The weights of a module's micro-batches.

    Args:
        trainer: with its module and its devices in place.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer, self.devices = trainer, data_devices(trainer)
        self._own: Callable[[Any], Any] | None = getattr(trainer.lightning_module, "loss_weight", None)

    @property
    def are_own(self) -> bool:
        """Whether the module says what its loss is a mean over."""
        return self._own is not None

    def divisor(self, batch: Any, samples: int | None) -> Any:
        """What the mean loss of a batch divides by; samples, if nothing is said about it or the loss is a sum."""
        own = None if self._own is None else self._own(batch)
        return samples if own is None else _at_hand(own)

    def __call__(self, batches: Sequence[Any], sizes: Sequence[int], batch_samples: int) -> list[Weight]:
        """Of each of this device's micro-batches. All devices must call it together.

        Args:
            batches, sizes: the micro-batches, and the samples in each; 0 of one that only keeps other devices company.
            batch_samples: samples in the whole batch, over all devices.
        """
        if self._own is None:
            return [Weight(samples, samples * self.devices / batch_samples) for samples in sizes]
        own = [self._own(batch) for batch in batches]
        if any(part is None for part in own):
            return [Weight(samples, float(self.devices) if samples else 0.0) for samples in sizes]
        parts = [_at_hand(part) if samples else 0 for part, samples in zip(own, sizes, strict=True)]
        total = self._over_devices(sum(parts))
        if isinstance(total, Tensor):  # on a device, which is not waited for: of an empty batch all weigh 0
            total = total.clamp_min(torch.finfo(total.dtype).tiny)
        elif total == 0:
            total = 1
        return [Weight(part, part * self.devices / total) for part in parts]

    def weighed(self, loss: Tensor, weight: Weight) -> Tensor:
        """The loss of a micro-batch times its factor; of an empty one 0, with gradients of 0, as its own is 0/0."""
        if isinstance(weight.factor, Tensor):
            return times_weight(loss, weight.factor)
        if weight.factor == 0 and self.are_own:
            if isinstance(strategy := self.trainer.strategy, ShardedStrategy):
                return strategy.weighs_nothing(loss)
            parameters = [p for p in self.trainer.lightning_module.parameters() if p.requires_grad]
            return sum([(parameter * 0).sum() for parameter in parameters], torch.zeros((), device=loss.device))
        return loss if weight.factor == 1 else loss * weight.factor

    def _over_devices(self, part: Number) -> Number:
        if self.devices == 1:
            return part
        device = self.trainer.strategy.root_device
        total = torch.as_tensor(part, dtype=most_precise(device), device=device).clone()
        distributed.all_reduce(total, group=data_group(self.trainer))
        return _at_hand(total)


def _at_hand(number: Any) -> Number:
    """A number; one on a GPU stays there, since reading it would wait. Raises InputError for what is none."""
    if isinstance(number, Tensor):
        if number.numel() != 1:
            raise InputError(f"loss_weight must return one number, not a tensor of shape {tuple(number.shape)}")
        if _is_far(number):
            # A count divides as one of Python's.
            return number.detach().reshape(()).to(most_precise(number.device))
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
        raise InputError(
            f"loss_weight returned {number!r}; it must return what the loss of the batch divides by, a number from 0 "
            "up, or None for a loss that is a sum"
        )
    return number


def _is_far(number: Tensor) -> bool:
    """Whether reading it would wait for a device."""
    return number.is_cuda
