"""Arrays mapped into memory: of a file of any size no more is there than what was read lately."""

import mmap
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metronome.data.columns import check_numbers, tensor_of
from metronome.data.stored.pages import Pages
from metronome.data.stored.stored import Stored
from metronome.units import InputError


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
        self.pages = Pages(root)
        row = self.array[:1]
        self._row_bytes = row.nbytes
        self._in_one_piece = row.flags.c_contiguous and self.array.strides[0] > 0
        self._first_byte = _address(self.array) - _address(root)

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: np.ndarray) -> Tensor:
        firsts = self._first_byte + rows * self.array.strides[0] if self._in_one_piece else None
        found = self.pages.read(lambda: self.array[rows], firsts, self._row_bytes)
        return tensor_of(found) if self.kind is None else torch.from_numpy(found).view(self.kind)

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
    # A view of the bytes, so that it is known to be mapped.
    try:
        array = np.ndarray(shape, dtype, np.memmap(path, dtype=np.uint8, mode="r"), start, strides)
    except ValueError as error:
        raise InputError(f"{path} has become shorter since it was mapped; start anew with the whole file") from error
    return MappedArray(array, kind)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
