"""Moments between which time is told: on a CPU by its clock, on a GPU in the order of its stream, without a wait."""

from time import perf_counter
from typing import Any

import torch


def mark(on_gpu: bool) -> Any:
    """This moment."""
    if not on_gpu:
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def milliseconds(first: Any, second: Any) -> float:
    """From one moment to the next; a GPU is waited for until it has come to the second."""
    if isinstance(first, float):
        return (second - first) * 1e3
    second.synchronize()
    return first.elapsed_time(second)
