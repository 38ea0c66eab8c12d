"""The most precise numbers that a device has, for what is added up over micro-batches and devices."""

import torch


def most_precise(device: torch.device) -> torch.dtype:
    """float64; float32 on MPS, which has no more."""
    return torch.float32 if device.type == "mps" else torch.float64
