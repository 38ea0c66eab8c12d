"""What PyTorch cannot do with weights in parts, said in a line."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from metronome.units import InputError

_DDP = "use trainer.strategy=ddp"
_OUTSIDE = (
    "uses a weight, or calls a part of a network, outside of that network's forward, where weights are in parts; do it "
    f"within forward, or write a configure_model that spreads it (conf/trainer/README.md), or {_DDP}"
)
_OF_MODULES = {
    "got mixed torch.Tensor and DTensor": _OUTSIDE,
    "FSDP requires running forward through the root module first": _OUTSIDE,
    "FSDP state has already been lazily initialized": _OUTSIDE,
    "setStorage: sizes": "goes through its network backwards more than once in a step (retain_graph=True), and its "
    "weights are let go of after the first; use trainer.strategy.reshard_after_forward=false, or trainer.strategy=ddp",
}


@contextmanager
def of_module(module: Any) -> Iterator[None]:
    """Around a pass through a module: an InputError for what it may do with whole weights only."""
    try:
        yield
    except RuntimeError as error:
        line = next((line for words, line in _OF_MODULES.items() if words in str(error)), None)
        if line is None:
            raise
        raise InputError(f"{type(module).__name__} {line}") from error


def once_only(module: Any) -> Callable[[Tensor], None]:
    """A hook on what a network has returned: an InputError where its gradient is to have a gradient. PyTorch's
    `fully_shard` would bring together only a part of it, and say nothing."""

    def look(gradient: Tensor) -> None:
        if torch.is_grad_enabled():  # in a backward pass: it makes a graph of its own
            raise InputError(
                f"{type(module).__name__} takes the gradient of a gradient (create_graph=True, a gradient penalty), "
                f"which does not work with weights in parts; {_DDP}"
            )

    return look


@contextmanager
def of_optimizer(optimizer: Any) -> Iterator[None]:
    """Around a step: that PyTorch cannot do what the optimizer asks of weights in parts is an InputError."""
    try:
        yield
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        ours = [i for i, (frame, _) in enumerate(frames) if frame.f_locals.get("self") is optimizer]
        below = [frame.f_globals.get("__name__", "") for frame, _ in frames[ours[-1] :]] if ours else []
        is_own = not any(name.startswith(("lightning.", "metronome.training.")) for name in below)  # not of the closure
        if is_own and any(name.startswith("torch.distributed.tensor") for name in below):
            operation = str(error).split(maxsplit=1)[0].strip(":")
            raise InputError(
                f"{type(optimizer).__name__} cannot be used on weights that are spread over devices, for which PyTorch "
                f"has no {operation}; {_DDP}, or another optimizer such as adamw"
            ) from error
        raise
