"""Optimizers over weights of which each device keeps a part: those that take a weight for whole are helped."""

import functools
import importlib
from typing import Any

from torch.optim import LBFGS, Optimizer, Rprop

from metronome.training.sharded.tensors import is_sharded, own_part, part_like, whole
from metronome.units import InputError


def suit(optimizer: Optimizer) -> None:
    """Make ready for steps. Raises InputError for L-BFGS."""
    if isinstance(optimizer, LBFGS):
        raise InputError("L-BFGS takes all weights as one row of numbers, whole; use trainer.strategy=ddp with it")
    if isinstance(optimizer, Rprop):
        _replace("torch.optim.rprop", "rprop", _on_own_parts)
    if any("muon" in kind.__name__.lower() for kind in type(optimizer).__mro__):
        _replace("torch.optim._muon", "_zeropower_via_newtonschulz", _of_whole)


def _replace(module: str, name: str, helped: Any) -> None:
    found: Any = importlib.import_module(module)
    if not hasattr(work := getattr(found, name), "is_of_parts"):
        replaced: Any = functools.wraps(work)(functools.partial(helped, work))
        replaced.is_of_parts = True
        setattr(found, name, replaced)


def _on_own_parts(work: Any, *lists: list[Any], **options: Any) -> None:
    """What looks at each number of a weight by itself, changed in place: each device does its own."""
    work(*([own_part(tensor) for tensor in tensors] for tensors in lists), **options)


def _of_whole(work: Any, matrix: Any, *arguments: Any, **options: Any) -> Any:
    """Of a whole matrix, which each device puts together: its part of what is worked out."""
    if not is_sharded(matrix):
        return work(matrix, *arguments, **options)
    return part_like(work(whole(matrix), *arguments, **options), matrix)
