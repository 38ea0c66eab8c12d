"""What DistributedDataParallel does in the forward and backward passes, done after them.

There a device that runs out of memory would leave the others waiting. Done afterwards, when all have told each other
that they have their gradients, it gives the same to rounding; the devices then do not send while they compute.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def gradients_there(module: nn.Module) -> list[int]:
    """Of each parameter, 1 if it has a gradient here: a device may not have used all of them."""
    return [int(parameter.grad is not None) for parameter in module.parameters()]


@torch.no_grad()
def average_gradients(module: nn.Module, there: Sequence[int]) -> None:
    """The mean of every gradient over all devices, in place. All must call it together.

    Args:
        module: whose gradients they are.
        there: of each parameter, whether any device has a gradient of it.
    """
    gradients = []
    for parameter, is_there in zip(module.parameters(), there, strict=True):
        if is_there:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
        if work is not None:
            work.wait()
    if gradients:
        torch._foreach_div_(gradients, dist.get_world_size())  # pyright: ignore


def take_buffers_over(model: Any) -> None:
    """Keep DistributedDataParallel from sharing buffers in the next forward pass: `share_buffers` does it.

    It does so in the first of all, and after each backward pass in which gradients have met. Here they never do.
    """
    if isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = False


def share_buffers(model: Any) -> None:
    """Give every device the first one's buffers (BatchNorm's means). All must call it together."""
    if isinstance(model, DistributedDataParallel) and model.broadcast_buffers and model.modules_buffers:
        model._sync_buffers()
