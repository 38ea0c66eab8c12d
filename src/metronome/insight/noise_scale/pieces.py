"""The squared sizes of the gradients of a step's micro-batches, from what each backward pass adds to `.grad`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metronome.insight.instruments.log_points import norms
from metronome.training.precise import most_precise


class Pieces:
    """Of this device's micro-batches in one step: sum(a_i |g_i|^2) and how many have samples.

    What a pass adds is factor_i g_i, with factor_i = a_i x devices (`training/step/weights.py`), since gradients are
    then averaged over devices. Between two passes a copy of the gradient is kept.

    Args:
        parameters: whose gradients they are.
        factors: of the micro-batches' losses.
        devices: in all.
        scale: which all gradients are to be divided by; of a loss that is a sum the samples in the whole batch.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], factors: Sequence[Any], devices: int, scale: float = 1.0
    ) -> None:
        self.parameters, self.factors, self.devices, self.scale = parameters, factors, devices, scale
        self._place = {id(parameter): i for i, parameter in enumerate(parameters)}
        self._before: list[Tensor | None] = [None] * len(parameters)
        self._met: list[Tensor] = []
        self._passes = 0
        dtype = most_precise(parameters[0].device)
        self.found = torch.zeros(2, dtype=dtype, device=parameters[0].device)

    @property
    def are_complete(self) -> bool:
        """Whether every micro-batch has had its backward pass: `training_step` may leave one out."""
        return self._passes == len(self.factors)

    @torch.no_grad()
    def meet(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Told what this device has, in the last pass, right before it is averaged over the devices."""
        places = [self._place.get(id(parameter)) for parameter in parameters]
        pairs = [(g, self._before[i]) for i, g in zip(places, gradients, strict=True) if i is not None]
        if pairs:
            self._met.append(squared_size(_differences(pairs)))

    @torch.no_grad()
    def after_backward(self) -> None:
        """Called when the gradients of a pass are there."""
        if self.are_complete:
            return
        factor, is_last = self.factors[self._passes], self._passes == len(self.factors) - 1
        self._passes += 1
        if not isinstance(factor, Tensor) and factor == 0:
            return  # it only keeps other devices company
        if self._met:
            squared = torch.stack(self._met).sum()
        else:
            pairs = [(p.grad, before) for p, before in zip(self.parameters, self._before, strict=True)]
            added = _differences([(grad, before) for grad, before in pairs if grad is not None])
            if not added:
                return
            squared = squared_size(added)
        share = factor * self.devices * self.scale**2  # a_i (devices x scale)^2, what |g_i|^2 a_i is found times a_i^2
        if isinstance(share, Tensor):  # on a device, which is not asked whether it is 0
            counts = share > 0
            term = torch.where(counts, squared / share.clamp_min(torch.finfo(squared.dtype).tiny), 0.0)
            self.found += torch.stack([term, counts.to(term.dtype)])
        else:
            self.found[0] += squared / share
            self.found[1] += 1
        if not is_last:
            self._keep()

    def _keep(self) -> None:
        for i, parameter in enumerate(self.parameters):
            before = self._before[i]
            if parameter.grad is not None and before is None:
                self._before[i] = parameter.grad.clone()
            elif parameter.grad is not None and before is not None:
                before.copy_(parameter.grad)


def squared_size(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of all their numbers, without waiting for their device."""
    sizes = norms(gradients)
    return torch.stack([size.to(sizes[0].device) for size in sizes]).square().sum()


def _differences(pairs: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    return [gradient if before is None else gradient - before for gradient, before in pairs]
