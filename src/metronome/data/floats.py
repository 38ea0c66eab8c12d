"""Floats of a data set in the type of the weights: tables come in float64, and networks are made in float32."""

import logging
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

log = logging.getLogger("metronome.data")

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_WANTED = (torch.float64, torch.float32)  # to shorter ones Lightning casts each batch itself


def floats_wanted(trainer: L.Trainer) -> torch.dtype | None:
    """The type that a batch's floats must have: the one that the precision casts to, or else that of the weights. None
    where that is none of float32 and float64, or the weights are of several."""
    for given in (torch.float64, torch.float32):
        wanted = trainer.precision_plugin.convert_input(torch.empty(0, dtype=given)).dtype
        if wanted != given:
            return wanted if wanted in _WANTED else None
    module = trainer.lightning_module
    kinds = {p.dtype for p in module.parameters() if p.dtype.is_floating_point} if module is not None else set()
    return kinds.pop() if len(kinds) == 1 and kinds <= set(_WANTED) else None


def dtype_with(part: Any, floats: torch.dtype | None) -> Any:
    """The type of a tensor once its floats are cast; None for anything else."""
    dtype = part.dtype if isinstance(part, Tensor) else None
    return floats if floats is not None and dtype in _FLOATS else dtype


def differ(batch: Any, floats: torch.dtype | None) -> bool:
    """Whether any float in a batch, or in the columns of a data set, is of another type."""
    if floats is None:
        return False
    if type(batch) is tuple or type(batch) is list:
        return any(differ(part, floats) for part in batch)
    parts = (batch,) if type(batch) is Tensor else tree_leaves(batch)
    return any(isinstance(part, Tensor) and part.dtype is not dtype_with(part, floats) for part in parts)


def cast(batch: Any, floats: torch.dtype | None) -> Any:
    """A batch, or columns, with all floats in this type; None: as they are."""
    if not differ(batch, floats):
        return batch
    return tree_map(lambda part: part.to(dtype_with(part, floats)) if isinstance(part, Tensor) else part, batch)


class Told:
    """Says that float64 is rounded, once for all data sets of a run, whichever process reads them."""

    def __init__(self) -> None:
        self._is_said = torch.zeros((), dtype=torch.bool)

    def share(self) -> None:
        """With worker processes that are started from now on."""
        self._is_said.share_memory_()

    def about(self, batch: Any, floats: torch.dtype | None) -> None:
        if floats is not torch.float32 or self._is_said:
            return
        if any(isinstance(part, Tensor) and part.dtype is torch.float64 for part in tree_leaves(batch)):
            self._is_said.fill_(True)
            log.info("data       float64 read as float32; trainer.precision=64-true keeps float64")
