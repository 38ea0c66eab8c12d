"""The norm of a gradient of which each device has a part, and the gradient clipped."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from metronome.training.precise import most_precise
from metronome.training.sharded.tensors import is_sharded, own_part


@torch.no_grad()
def norm_of_all(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of a gradient over all devices, which must call it together; one small sum is sent.

    A part of which several devices have the same copy counts once.
    """
    devices = distributed.get_world_size()
    first = own_part(gradients[0])
    total = torch.zeros((), dtype=most_precise(first.device), device=first.device)
    for gradient in gradients:
        part = own_part(gradient)
        if part.numel():
            total += torch.linalg.vector_norm(part, dtype=total.dtype).square() * (_parts(gradient) / devices)
    distributed.all_reduce(total)
    return total.sqrt()


def _parts(gradient: Any) -> int:
    """Into how many different parts it is cut."""
    if not is_sharded(gradient):
        return 1
    mesh, placements = gradient.device_mesh, gradient.placements
    return math.prod(mesh.size(i) for i, how in enumerate(placements) if not how.is_replicate())


@torch.no_grad()
def clip_norm(gradients: Sequence[Tensor], most: float) -> None:
    """As `torch.nn.utils.clip_grad_norm_`, which cannot take weights of which some are tensor-parallel, some not."""
    if gradients:
        factor = (most / (norm_of_all(gradients) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            part = own_part(gradient)
            part.mul_(factor.to(part.dtype))


@torch.no_grad()
def clip_values(gradients: Sequence[Tensor], most: float) -> None:
    """As `torch.nn.utils.clip_grad_value_`."""
    for gradient in gradients:
        own_part(gradient).clamp_(-most, most)
