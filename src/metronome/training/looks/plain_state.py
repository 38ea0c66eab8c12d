"""Numbers, lists and arrays that `training_step` leaves changed in a module; random numbers drawn."""

import pickle
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from metronome.training.guards.put_back.attributes import BOOKS, own_modules

_DEEP, _FEW, _MANY = 3, 1_000, 1_000_000


def plain_state(module: nn.Module) -> dict[str, Any]:
    """What there is of it, by the attribute's name: to be compared with what it is later. Tensors are not looked at."""
    found: dict[str, Any] = {}
    for owner in own_modules(module):
        if type(owner).__module__.startswith("torchmetrics."):  # a collection
            continue
        for name, value in list(vars(owner).items()):
            if name not in BOOKS:
                found[name] = found.get(name, ()) + tuple(_looked_at(value, _DEEP))
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The names of what is another, and was there before."""
    return {name for name, value in before.items() if name in after and after[name] != value}


def random_state() -> tuple[Any, ...]:
    """Of the generators that a step may draw from, on the CPU."""
    return random.getstate(), pickle.dumps(np.random.get_state()), bytes(torch.get_rng_state().numpy())


def _looked_at(value: Any, depth: int) -> Iterator[Any]:
    kind = type(value)
    if issubclass(kind, bool | int | float | complex | str | bytes | np.generic):
        yield repr(value)  # so that nan equals nan
    elif kind is np.ndarray:
        yield value.shape, hash(value.tobytes()) if value.size <= _MANY and value.dtype != object else 0
    elif issubclass(kind, Mapping | Sequence | set) or kind.__name__ == "deque":
        yield len(value)
        if depth and len(value) <= _FEW:
            for item in value.values() if issubclass(kind, Mapping) else value:
                yield from _looked_at(item, depth - 1)
    elif depth and not issubclass(kind, nn.Module | torch.Tensor | type) and not _is_of_others(kind):
        for item in list(getattr(value, "__dict__", {}).values()):
            yield from _looked_at(item, depth - 1)


def _is_of_others(kind: type) -> bool:
    """Of a library, whose objects may hold anything."""
    return kind.__module__.partition(".")[0] in _OTHERS


_OTHERS = {"torch", "lightning", "torchmetrics", "metronome", "numpy", "builtins", "functools", "omegaconf", "weakref",
           "threading", "logging"}  # fmt: skip
