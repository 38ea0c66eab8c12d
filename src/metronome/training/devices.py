"""What DistributedDataParallel does in the backward pass, done after it.

There a device that runs out of memory would leave the others waiting. Done afterwards, when all have told each other
that they have their gradients, it gives the same to rounding; the devices then do not send while they compute.
"""

import torch
import torch.distributed as dist
from torch import nn


def average_gradients(module: nn.Module) -> None:
    """The mean of every gradient over all devices, in place. All must call it together."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    waiting = [dist.all_reduce(gradient, async_op=True) for gradient in gradients]
    for work in waiting:
        if work is not None:
            work.wait()
    if gradients:
        torch._foreach_div_(gradients, dist.get_world_size())  # pyright: ignore


def share_buffers(module: nn.Module) -> None:
    """Give every device the first one's buffers (BatchNorm's means). All must call it together."""
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)
