"""Optimizers whose update is one kernel for all tensors, by default where that is as exact, and faster.

PyTorch's default on a CPU is a loop of several operations for each tensor. Measured with PyTorch 2.13 on one thread, in
November 2026: `optimizer.step()` in microseconds, the loop and fused; and, after 1,000 steps in float32 with the same
gradients, how far the fused one is from float64 by how far the loop is (the mean over all weights; the largest error
of any weight: 0.93 to 1.03 times the loop's).

    tensors                         SGD       momentum   Nesterov   Adam         AdamW        Adagrad
    4 (784-128-10)                  35, 35    76, 48     98, 45     255, 96      256, 94      161, 75
    14 (784-64-128-64-10, norms)    47, 35    128, 53    165, 49    416, 111     458, 111     258, 91
    800 small (in ms)               1.4, 0.5  5.2, 0.9   6.9, 1.0   18.0, 3.0    20.4, 3.1    11.2, 2.7
    4, of 25 million weights (ms)   9.1, 8.2  19, 13     31, 12     68, 16       63, 17       34, 13
    error, fused / loop             the same  1.000      1.000      0.998-1.000  0.999-1.000  0.999-1.000

Of a whole step, forward and backward passes included, that is 20 to 40 % with AdamW (a small CNN: nothing), 2 to 20 %
with Adagrad, 4 % with momentum (16 % with 800 tensors); so SGD stays as it is on a CPU, to the last bit. On CUDA
nothing has been measured yet; that the results are as exact there is tested where there is a GPU (`pytest -m gpu`).

The kernels go through memory from front to back: a gradient that lies there in another order than its weight is
taken for another weight's, without a word on a CPU; one that is sparse, and a first momentum beside later ones, are
refused. So each update is looked at before it is made (`choose_for_step`: 1 to 1.7 microseconds a tensor).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from metronome.units import InputError

# For each type of device those that PyTorch has from 2.11 on, and no class derived from one: it may do more.
_KINDS: dict[str, tuple[type[Optimizer], ...]] = {"cpu": (Adam, AdamW, Adagrad), "cuda": (SGD, Adam, AdamW)}
_DTYPES = (torch.float32, torch.float64)  # those that were measured


def is_better_fused(kind: type[Optimizer], device: str, options: Mapping[str, Any]) -> bool:
    """Whether an optimizer is to be fused where nobody has said how it is to work.

    Args:
        kind: its class.
        device: the type of the device where the parameters are, such as `cuda`.
        options: of the optimizer, with those left at their defaults.

    Raises:
        InputError: for a value of `fused` that is neither true, false nor None.
    """
    if options.get("fused") not in (None, True, False):
        raise InputError(f"optimizer.fused={options['fused']!r} is neither true nor false, nor null for what is better")
    if kind not in _KINDS.get(device, ()) or any(options.get(name) is not None for name in ("fused", "foreach")):
        return False
    if options.get("capturable") or options.get("differentiable"):  # it is to work in a way of its own
        return False
    return kind is not SGD or bool(options.get("momentum"))  # without, it is one operation for each tensor


def make_fused(optimizer: Optimizer) -> bool:
    """Have an optimizer fused where that is better, its parameters being where they are trained. Whether it now is.

    Then `choose_for_step` must be called before each update. The optimizer is not told that it is fused when it is
    made: it would undo a gradient scaler's work by itself (`_step_supports_amp_scaling`), and Lightning then refuses
    to clip gradients.
    """
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    better = all(
        type(parameter) in (Tensor, nn.Parameter)
        and parameter.dtype in _DTYPES
        and is_better_fused(type(optimizer), parameter.device.type, group)
        for group in groups
        for parameter in group["params"]
    )
    if not parameters or not better:
        return False
    fuse(optimizer)
    return True


def fuse(optimizer: Optimizer) -> None:
    """Have it fused wherever its steps allow it."""
    for options in (optimizer.defaults, *optimizer.param_groups):  # a group added later is made of the defaults
        options["fused"] = True


def choose_for_step(optimizer: Optimizer) -> None:
    """Of an optimizer of `make_fused`, with its gradients there: whether the update now to be made is fused.

    A group of which nothing is said, from a checkpoint of a run that was not fused, goes on as it was.
    """
    for group in optimizer.param_groups:
        if group["fused"] is not None:
            group["fused"] = _fits(optimizer, group)


def _fits(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether weights, gradients and states lie alike in memory, and momentum has begun for all weights or for none."""
    begun: set[bool] = set()
    for weight in group["params"]:
        gradient = weight.grad
        if gradient is None:
            continue
        if gradient.layout is not torch.strided or gradient.dtype is not weight.dtype:
            return False
        if not _lie_alike(gradient, weight):
            return False
        state = optimizer.state.get(weight)
        begun.add(bool(state))
        if not state:  # it will be made like the weight, but without gaps
            if not _lie_alike(torch.empty_like(weight, device="meta"), weight):
                return False
            continue
        for name, value in state.items():
            if name == "step":
                if value.dtype is not torch.float32 or value.device != weight.device:
                    return False
            elif not _lie_alike(value, weight):
                return False
    return len(begun) < 2 or type(optimizer) is not SGD


def _lie_alike(one: Tensor, other: Tensor) -> bool:
    ours, theirs = one.stride(), other.stride()
    return ours == theirs or all(n == 1 or a == b for n, a, b in zip(other.shape, ours, theirs, strict=True))
