"""A column of a data set, as a tensor: tensors, arrays of any kind of number, frames and series of pandas and polars.

Neither pandas nor polars is imported: a frame or series is known by what it can do.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metronome.units import InputError

# PyTorch can keep these, and hardly anything else.
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_LONG: dict[Any, Any] = {np.dtype(np.longdouble): np.float64, np.dtype(np.clongdouble): np.complex128}
# One whole number a sample is a label or an index, and there PyTorch's losses and layers take int64 (or uint8).
_LABELS = (torch.int8, torch.int16, torch.int32)
_ENCODE = (
    "encode it before it is split: numpy.unique(y, return_inverse=True)[1], or pandas' .astype('category').cat.codes"
)


def is_column(source: Any) -> bool:
    """Whether it is a tensor, an array, a frame or a series, with a row for each sample."""
    return source.ndim > 0 if isinstance(source, Tensor | np.ndarray) else _is_frame(source) or _is_series(source)


def is_sparse(source: Any) -> bool:
    """Whether it is a sparse matrix of SciPy's, which has a length in name only."""
    return hasattr(source, "toarray") and hasattr(source, "shape")


def as_tensor(column: Any) -> Tensor:
    """A column as a tensor, which shares its memory where it can: floats as they are, whole numbers in a type that
    PyTorch computes with, and int64 (or uint8) where there is one a sample.

    Raises:
        InputError: for what holds no numbers, and values that are missing in a frame or a series.
    """
    if isinstance(column, Tensor):
        return _usable(column)
    if _is_frame(column) or _is_series(column):
        column = _of_frame(column)
    if isinstance(column, np.ma.MaskedArray) and (masked := int(np.ma.count_masked(column))):
        raise InputError(
            f"values are missing: {masked:,} of an array are masked; fill them, as with x.filled(0), or leave their "
            "samples out"
        )
    check_numbers(column)
    return tensor_of(column)


def check_numbers(column: np.ndarray) -> None:
    """Raises InputError for an array of anything but numbers."""
    if column.dtype.kind not in "biufc":
        raise InputError(f"a column of a data set must hold numbers, and this one holds {_what(column)}")


def tensor_of(column: np.ndarray) -> Tensor:
    """An array of numbers as a tensor, as `as_tensor` makes it."""
    if not column.dtype.isnative or column.dtype in _LONG:
        column = column.astype(_LONG.get(column.dtype, column.dtype.newbyteorder("=")))
    if not column.flags.writeable:
        with warnings.catch_warnings():  # an array that must not be written to, which nobody here does
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return _usable(torch.as_tensor(np.ascontiguousarray(column)))
    return _usable(torch.as_tensor(np.ascontiguousarray(column)))


def _usable(tensor: Tensor) -> Tensor:
    wanted = _WIDER.get(tensor.dtype, tensor.dtype)
    if tensor.ndim == 1 and (wanted in _LABELS):
        wanted = torch.int64
    if wanted == tensor.dtype:
        return tensor
    made = tensor.to(wanted)
    if tensor.dtype == torch.uint64 and len(made) and int(made.min()) < 0:
        raise InputError("a column of a data set has uint64 numbers from 2**63 up, which PyTorch does not compute with")
    return made


# ---- frames and series --------------------------------------------------------------------------------------


def _is_frame(source: Any) -> bool:
    return hasattr(source, "to_numpy") and hasattr(source, "columns") and hasattr(source, "shape")


def _is_series(source: Any) -> bool:
    return hasattr(source, "to_numpy") and hasattr(source, "dtype") and hasattr(source, "name")


def _of_frame(source: Any) -> np.ndarray:
    """An array of shape (samples,), or of a frame (samples, columns), in the type that holds the numbers of all."""
    if _is_series(source):
        series = {0: (source.name, source)}
    else:
        # By place, since a frame of pandas may have a name twice.
        series = dict(enumerate(source.items() if hasattr(source, "items") else _named(source.iter_columns())))
    arrays = [values.to_numpy() for _, values in series.values()]
    names = [name for name, _ in series.values()]
    if not arrays:
        raise InputError("a frame of a data set has no columns")
    for name, array in zip(names, arrays, strict=True):
        if array.dtype.kind not in "biufc" and not _lacks_only_values(array):
            what = _what(array, is_alone=len(arrays) == 1)
            column = "a column" if name is None else f"column {name!r}"
            raise InputError(f"{column} of a data set must hold numbers, and holds {what}")
    if any(missing := [_missing(array) for array in arrays]):
        found = [
            f"{count:,} in {'a column' if name is None else f'column {name!r}'}"
            for name, count in zip(names, missing, strict=True)
            if count
        ]
        more = f", and in {len(found) - 5:,} more" if len(found) > 5 else ""
        raise InputError(
            f"values are missing: {', '.join(found[:5])}{more}, of {len(source):,} rows; fill them, as with "
            "x.fillna(x.mean()) of the training rows, or drop them, as with x.dropna(); where NaN is meant, give "
            "x.to_numpy()"
        )
    return arrays[0] if _is_series(source) else np.column_stack(arrays)


def _named(columns: Any) -> Any:
    return ((column.name, column) for column in columns)


def _missing(array: np.ndarray) -> int:
    if array.dtype.kind == "O":
        return sum(map(_is_missing, array))
    return int(np.isnan(array).sum()) if array.dtype.kind in "fc" else 0


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def _lacks_only_values(array: np.ndarray) -> bool:
    """Whether it would hold numbers if nothing were missing: booleans that may be null come as objects."""
    return array.dtype.kind == "O" and all(
        _is_missing(value) or isinstance(value, bool | int | float) for value in array
    )


def _what(array: np.ndarray, is_alone: bool = True) -> str:
    """What an array holds in place of numbers, and what can be done about it."""
    values = [value for value in array.flat if not _is_missing(value)] if array.dtype.kind == "O" else array.flat[:1]
    first = next((value for value in values if isinstance(value, str | bytes)), values[0] if len(values) else None)
    if isinstance(first, str | bytes):
        advice = _ENCODE if is_alone else "leave it out, or encode it: pandas.get_dummies(x, dtype=float)"
        return f"text ({str(first)!r}); {advice}"
    if array.dtype.kind == "O":
        return f"objects of the type {type(first).__name__}; make numbers of them, as with x.astype('float32')"
    return f"{array.dtype}; make numbers of it, or leave it out"
