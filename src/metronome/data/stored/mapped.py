"""Arrays mapped into memory: of a file of any size no more is there than what was read lately.

Measured on one core with a file of 1 GB that was not in the system's cache, 256 rows of 784 bytes at random a batch:
28 ms as the system reads by itself, 46 ms with the rows sorted, 18 ms with its reading ahead switched off, and 3.7 ms
where it is told of all rows of the batch before the first is touched. So rows are announced, and never sorted.
"""

import mmap
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metronome.data.columns import check_numbers, tensor_of
from metronome.data.stored.stored import Stored
from metronome.units import InputError

try:
    import resource
except ImportError:  # Windows has none, and does not announce rows either
    resource = None

_KEPT = 2**28  # bytes of a file that a process keeps mapped at most
_AROUND = 2**16  # bytes that the system maps around a byte that is touched
_ANNOUNCED = 32  # batches, after one that waited for the disk
_PAGE = mmap.PAGESIZE


class MappedArray(Stored):
    """An array of NumPy's in a file that is mapped into memory, whole or a part of it in any strides.

    Args:
        array: a `numpy.memmap`, or a view of one.
        kind: the type of its numbers where NumPy has no such; None: what the array says.

    Raises:
        InputError: if it holds no numbers.
    """

    def __init__(self, array: np.ndarray, kind: torch.dtype | None = None) -> None:
        check_numbers(array)
        root = root_of(array)
        assert root is not None
        # Never the memmap itself: a subclass of an array takes longer to index.
        self.array, self.root, self.kind = np.asarray(array), root, kind
        row = self.array[:1]
        self._row_bytes = row.nbytes
        self._in_one_piece = row.flags.c_contiguous and self.array.strides[0] > 0
        self._first_byte = _address(self.array) - _address(root) + root.offset % mmap.ALLOCATIONGRANULARITY
        self._kept_most = _KEPT if root.nbytes > _KEPT and root.mode != "c" else None
        self._mapped = self._announced = 0

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: np.ndarray) -> Tensor:
        if self._announced:
            self._announced -= 1
            self._announce(rows)
            found = self.array[rows]
        else:
            before = _waits_for_disk()
            found = self.array[rows]
            if _waits_for_disk() > before:
                self._announced = _ANNOUNCED
        if self._kept_most is not None:
            self._give_back(len(rows))
        return tensor_of(found) if self.kind is None else torch.from_numpy(found).view(self.kind)

    def _announce(self, rows: np.ndarray) -> None:
        if not self._in_one_piece or not hasattr(mmap, "MADV_WILLNEED"):
            return
        pages: Any = self.root.base
        for first in (self._first_byte + rows * self.array.strides[0]).tolist():
            start = first - first % _PAGE
            pages.madvise(mmap.MADV_WILLNEED, start, first + self._row_bytes - start)

    def _give_back(self, rows: int) -> None:
        """Unmap what was read where it has become much. It stays in the system's cache while there is room."""
        assert self._kept_most is not None
        self._mapped += rows * (self._row_bytes + _AROUND)
        if self._mapped > self._kept_most and hasattr(mmap, "MADV_DONTNEED"):
            pages: Any = self.root.base
            pages.madvise(mmap.MADV_DONTNEED)  # never of mode "c", whose changes are nowhere else
            self._mapped = 0

    def __reduce__(self) -> Any:
        name = self.root.filename
        if name is None or self.root.mode == "c":
            why = "has no name" if name is None else 'is open in mode "c", whose changes are in this process alone'
            raise InputError(
                f"an array of a data set is mapped from a file that {why}, and workers that are started anew cannot "
                'open it; map it by its name in mode "r", or use data.num_workers=0'
            )
        start = _address(self.array) - _address(self.root) + self.root.offset
        return _reopened, (os.fspath(name), self.array.dtype, self.array.shape, self.array.strides, start, self.kind)


def root_of(array: Any) -> np.memmap | None:
    """The memmap that an array is, or is a view of; None where it is in memory."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            return array
        array = array.base
    return None


def _reopened(path: str, dtype: Any, shape: Any, strides: Any, start: int, kind: torch.dtype | None) -> MappedArray:
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    # A view of the bytes, so that it is known to be mapped.
    low = start + sum(min(0, step * (count - 1)) for step, count in zip(strides, shape, strict=True))
    high = start + sum(max(0, step * (count - 1)) for step, count in zip(strides, shape, strict=True)) + dtype.itemsize
    assert 0 <= low <= high <= len(whole), f"{path} has become shorter"
    return MappedArray(np.ndarray(shape, dtype, whole, start, strides), kind)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _waits_for_disk() -> int:
    return 0 if resource is None else resource.getrusage(getattr(resource, "RUSAGE_THREAD", 0)).ru_majflt
