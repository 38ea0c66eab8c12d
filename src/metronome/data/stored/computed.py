"""Arrays of other libraries (h5py, zarr, dask), and of your own, that give the rows they are asked for."""

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from metronome.data.columns import check_numbers, tensor_of
from metronome.data.stored.stored import Stored
from metronome.units import InputError


class ComputedArray(Stored):
    """What has a shape, a dtype of NumPy's, and `source[rows]` for rows in an array of int64, increasing, each once.

    Args:
        source: such; it goes to worker processes as it is.

    Raises:
        InputError: if it holds no numbers.
    """

    def __init__(self, source: Any) -> None:
        check_numbers(np.empty(0, np.dtype(source.dtype)))
        self.source, self.length = source, int(source.shape[0])

    def __len__(self) -> int:
        return self.length

    def read(self, rows: np.ndarray) -> Tensor:
        is_increasing = bool((rows[1:] > rows[:-1]).all())
        asked, places = (rows, None) if is_increasing else np.unique(rows, return_inverse=True)
        found = np.asarray(self.source[asked])
        if len(found) != len(asked):
            raise InputError(
                f"a {type(self.source).__name__} of a data set was asked for {len(asked)} rows, an array of int64, "
                f"and gave {len(found)}"
            )
        return tensor_of(found if places is None else found[places])


def computes_rows(source: Any) -> bool:
    """Whether it is an array in all but its type, with a row for each sample."""
    if isinstance(source, Tensor | np.ndarray | np.generic | Dataset | nn.Module) or hasattr(source, "toarray"):
        return False
    if hasattr(source, "to_numpy") or not hasattr(source, "__getitem__"):
        return False
    shape, dtype = getattr(source, "shape", None), getattr(source, "dtype", None)
    return isinstance(shape, tuple) and len(shape) > 0 and isinstance(dtype, np.dtype | type)
