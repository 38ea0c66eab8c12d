"""Numbers that come from a GPU while it works on."""

from typing import Any

import torch
from torch import Tensor


def is_far(values: Tensor) -> bool:
    """Whether to read them means to wait for a device."""
    return values.is_cuda


def send(values: Tensor) -> tuple[Tensor, Any]:
    """Where they will arrive, in main memory, and the CUDA event that says that they have."""
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
