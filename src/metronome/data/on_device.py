"""Data sets of rows, kept on the device that trains, where their batches are gathered too."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from metronome.data.floats import cast, dtype_with
from metronome.data.rows import Rows, is_rows
from metronome.training.batches.order import Share
from metronome.training.step.hooks import is_foreign
from metronome.units import InputError

# The part of the device's free memory that `auto` takes for the data at most; the rest is for the training.
LARGEST_PART = 1 / 4
# Before a batch arrives on the device these may do something to it that was written for main memory.
_HOOKS_BEFORE = ("on_before_batch_transfer", "transfer_batch_to_device")


class OnDevice:
    """Which data sets are kept on the device, and those that are. Decided when the first loader is made, for all
    together: only then is it known which device it is, and how much memory it has free.

    Args:
        wanted: `auto`, True or False, as `DataModule` says it.
    """

    def __init__(self, wanted: bool | str) -> None:
        self.wanted = wanted
        self._place: torch.device | None = None
        self._keeps = False
        self._kept: dict[tuple[int, Any], Rows] = {}  # by the identity of the rows in main memory, and their floats

    def reader(
        self, dataset: Any, splits: dict[str, Any], trainer: L.Trainer, floats: torch.dtype | None = None
    ) -> "DeviceReader | None":
        """What reads the batches of a data set on the trainer's device; None where it stays in main memory.

        Args:
            dataset: one of the splits.
            splits: all data sets of the run, by name.
            trainer: whose device it is.
            floats: what floats are cast to there; None: as they are.

        Raises:
            InputError: if they are to be kept there, and do not fit.
        """
        device = trainer.strategy.root_device
        if self.wanted is False or not is_far(device):
            return None
        if device != self._place:
            self._place, self._kept = device, {}
            self._keeps = self._fit(splits, device, floats) and (self.wanted is True or _may_gather_there(trainer))
        if not self._keeps or not is_rows(dataset) or dataset.is_stored:
            return None
        check = getattr(trainer.lightning_module, "check_batch", None)
        if check is not None:  # on the device looking at the values would halt it at every step
            check(dataset.columns)
        key = id(dataset), floats
        if key not in self._kept:
            self._kept[key] = Rows(tree_map(lambda column: cast(column.to(device), floats), dataset.columns))
        return DeviceReader(self._kept[key], device)

    def _fit(self, splits: dict[str, Any], device: torch.device, floats: torch.dtype | None) -> bool:
        size, free = sum(num_bytes(split, floats) for split in splits.values()), free_bytes(device)
        if self.wanted is True and size > free:
            raise InputError(
                f"data.on_device=true, and the data take {_in_gb(size)} of the {_in_gb(free)} that {device} has free; "
                "use data.on_device=auto, or false"
            )
        return self.wanted is True or size <= LARGEST_PART * free


class DeviceReader(Dataset):
    """Reads one device's share of a batch from rows on that device, by indices that come from main memory.

    Args:
        rows: on the device.
        device: which that is.
    """

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self.rows, self.device = rows, device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, share: Share) -> Any:
        indices = torch.from_numpy(share.indices)
        if self.device.type == "cuda":
            indices = indices.pin_memory()  # only from there is it copied without waiting
        return self.rows[indices.to(self.device, non_blocking=True)]


def num_bytes(dataset: Any, floats: torch.dtype | None = None) -> int:
    """What it would take on a device, with its floats in a type; 0 for one that is not kept there."""
    is_kept = is_rows(dataset) and not dataset.is_stored
    columns = [c for c in tree_leaves(dataset.columns) if isinstance(c, Tensor)] if is_kept else []
    return sum(column.numel() * dtype_with(column, floats).itemsize for column in columns)


def is_far(device: torch.device) -> bool:
    """Whether a batch in main memory has a way to go to it."""
    return device.type == "cuda"


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def _may_gather_there(trainer: L.Trainer) -> bool:
    """Whether nobody does anything to a batch on its way; what this library does on it only looks."""
    owners = (trainer.lightning_module, getattr(trainer, "datamodule", None))
    return not any(is_foreign(owner, name) for owner in owners if owner is not None for name in _HOOKS_BEFORE)


def _in_gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
