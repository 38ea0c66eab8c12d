"""What a module is before a step: weights, buffers and plain attributes, to be compared and put back."""

import random
from collections import deque
from collections.abc import Collection
from copy import deepcopy
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from metronome.training.guards.put_back.attributes import BOOKS

_PLAIN = (bool, int, float, str, type(None), Tensor, np.ndarray, list, tuple, dict, set, deque, random.Random,
          np.random.Generator, torch.Generator)  # fmt: skip

_FIXED = (bool, int, float, str)  # never changed in place


class Kept:
    """Weights, buffers and plain attributes of a module as they are now.

    Plain attributes are numbers, texts, tensors, generators and containers of such, on the module or on any foreign one
    within it. What other objects hold is not known. Torchmetrics are left out: no loss goes by them.

    Args:
        module: whose they are.
        apart: modules of it whose buffers are no state of the module's own (those of norms).
        weights: whether they are kept, which takes as much memory as they do.
    """

    def __init__(self, module: L.LightningModule, apart: Collection[nn.Module] = (), weights: bool = True) -> None:
        metrics = {id(part) for metric in module.modules() if isinstance(metric, Metric) for part in metric.modules()}
        owners = {name: owner for name, owner in module.named_modules() if id(owner) not in metrics}
        self._module, self._apart = module, {id(owner) for owner in apart}
        self._weights = {name: (p, p.detach().clone()) for name, p in module.named_parameters() if weights}
        self._buffers = {
            _joined(name, key): (owner, key, None if buffer is None else buffer.detach().clone())
            for name, owner in owners.items() for key, buffer in owner._buffers.items()
        }  # fmt: skip
        own = {name: owner for name, owner in owners.items() if not type(owner).__module__.startswith("torch.")}
        self._keys = [(owner, set(vars(owner))) for owner in own.values()]
        self._attributes = {
            _joined(name, key): (owner, key, copy)
            for name, owner in own.items() for key, value in vars(owner).items()
            if key not in BOOKS and (copy := self._copy(value)) is not None
        }  # fmt: skip

    def _copy(self, value: Any) -> tuple[Any] | None:
        """A copy, in a tuple of one, that shares modules, weights and the Trainer; None of what cannot be copied."""
        if not isinstance(value, _PLAIN):
            return None
        if value is None or type(value) in _FIXED:
            return (value,)
        if isinstance(value, torch.Generator):
            return (value.get_state(),)
        trainer: Any = self._module.trainer
        shared = [*self._module.modules(), *self._module.parameters(), trainer, trainer.strategy]
        try:
            return (deepcopy(value, {id(part): part for part in shared}),)
        except (TypeError, RuntimeError, NotImplementedError):
            return None

    @torch.no_grad()
    def put_back(self, weights: bool = True, state: bool = True, apart: bool = True) -> None:
        """Put back the weights, the state (buffers and attributes), and the buffers of those apart."""
        if weights:
            for parameter, before in self._weights.values():
                if not _same(parameter.detach(), before):
                    parameter.copy_(before)
        for owner, key, before in self._buffers.values():
            now = owner._buffers.get(key)
            if (apart if id(owner) in self._apart else state) and not _same(now, before):
                owner._buffers[key] = None if before is None else before.clone() if now is None else now.copy_(before)
        if not state:
            return
        for owner, key, (before,) in self._attributes.values():
            now = vars(owner).get(key)
            if isinstance(now, torch.Generator):
                now.set_state(before)
            elif not _same(now, before):
                copy = self._copy(before)
                assert copy is not None
                vars(owner)[key] = copy[0]
        for owner, keys in self._keys:
            new = [key for key, value in vars(owner).items() if key not in keys and isinstance(value, _PLAIN)]
            for key in [key for key in new if key not in BOOKS]:
                del vars(owner)[key]

    def changed_weights(self) -> list[str]:
        """Names of the parameters that are not what they were."""
        return [name for name, (p, before) in self._weights.items() if not _same(p.detach(), before)]

    def changed_state(self) -> list[str]:
        """Names of the buffers and attributes that are not what they were."""
        names = [
            name for name, (owner, key, before) in self._buffers.items()
            if id(owner) not in self._apart and not _same(owner._buffers.get(key), before)
        ]  # fmt: skip
        for name, (owner, key, (before,)) in self._attributes.items():
            now = vars(owner).get(key)
            if not _same(now.get_state() if isinstance(now, torch.Generator) else now, before):
                names.append(name)
        return names


def _joined(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def _same(now: Any, before: Any) -> bool:
    """Whether two values are certain to be the same."""
    if isinstance(now, Tensor) and isinstance(before, Tensor):
        return now.shape == before.shape and now.dtype == before.dtype and bool((now == before).all())
    if type(now) is not type(before):
        return False
    if isinstance(now, np.ndarray):
        return np.array_equal(now, before)
    if isinstance(now, list | tuple | deque):
        return len(now) == len(before) and all(map(_same, now, before))
    if isinstance(now, dict):
        return now.keys() == before.keys() and all(_same(now[key], before[key]) for key in now)
    return isinstance(now, bool | int | float | str | type(None) | set) and now == before
