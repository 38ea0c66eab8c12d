"""Arrow tables and Hugging Face data sets, in memory or mapped from files: a batch is a dict, a tensor for each column.

Neither package is imported before something of theirs is given.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from metronome.data.columns import tensor_of
from metronome.data.stored.stored import Stored
from metronome.units import InputError

_SENT = 2**26  # bytes of a table in memory that a worker process may be sent
# What a data set of datasets' may be asked to give in, and still be read as it is stored; with a function of the user's
# (`set_transform`) each sample is read by itself, with random numbers of its own.
_PLAIN_FORMATS = (None, "torch", "numpy", "arrow")


class Table(Stored):
    """A `pyarrow.Table`. Its chunks are not joined: of each, the rows of a batch that lie in it are taken.

    Args:
        table: such.
        opened: what opens it in another process, with its arguments; None: it is sent there.

    Raises:
        InputError: for columns that hold no numbers, or have values missing.
    """

    def __init__(self, table: Any, opened: tuple[Callable[..., Any], tuple] | None = None) -> None:
        _check_names(table.column_names)
        self.columns = {name: ChunkedColumn(table[name], name) for name in table.column_names}
        self.table, self.opened = table, opened

    def __len__(self) -> int:
        return self.table.num_rows

    def read(self, rows: np.ndarray) -> dict[str, Tensor]:
        return {name: column.read(rows) for name, column in self.columns.items()}

    def __reduce__(self) -> Any:
        if self.opened is not None:
            return self.opened
        _check_sent(self.table)
        return Table, (self.table,)


class ChunkedColumn(Stored):
    """A `pyarrow.ChunkedArray` or `pyarrow.Array` of numbers, or of lists of numbers that are equally long."""

    def __init__(self, column: Any, name: str | None = None) -> None:
        self.column, self.name = column, name
        self.chunks = [column] if not hasattr(column, "chunks") else [chunk for chunk in column.chunks if len(chunk)]
        _check(column.type, name)
        if column.null_count:
            raise InputError(_missing(column.null_count, name, len(column)))
        self.ends = np.cumsum([len(chunk) for chunk in self.chunks], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.column)

    def read(self, rows: np.ndarray) -> Tensor:
        if len(self.chunks) == 1:
            return tensor_of(_values(self.chunks[0].take(_indices(rows)), self.name))
        places = np.searchsorted(self.ends, rows, side="right")
        order = np.argsort(places, kind="stable")
        places, rows = places[order], rows[order]
        firsts = np.flatnonzero(np.diff(places, prepend=-1))
        parts = []
        for first, last in zip(firsts.tolist(), [*firsts[1:].tolist(), len(rows)], strict=True):
            chunk = self.chunks[place := int(places[first])]
            within = rows[first:last] - (self.ends[place] - len(chunk))
            parts.append(_values(chunk.take(_indices(within)), self.name))
        if len({part.shape[1:] for part in parts}) > 1:
            raise InputError(_unequal(self.name))
        found = np.empty((len(rows), *parts[0].shape[1:]), parts[0].dtype)
        found[order] = np.concatenate(parts)
        return tensor_of(found)

    def __reduce__(self) -> Any:
        _check_sent(self.column)
        return ChunkedColumn, (self.column, self.name)


class HuggingFace(Stored):
    """A `datasets.Dataset`, with what was selected, shuffled and renamed of it; only columns of its format are read.

    Floats are as they are stored, and then as the weights are: not float32, as the format of torch would have them.

    Args:
        dataset: such.
        column: of which this one alone is read, as a tensor and not as a dict.

    Raises:
        InputError: for columns that hold no numbers.
    """

    def __init__(self, dataset: Any, column: str | None = None) -> None:
        names = dataset.format["columns"] if column is None else [column]
        _check_names(names)
        schema = dataset.features.arrow_schema
        for name in names:
            _check(schema.field(name).type, name, "dataset.remove_columns")
        self.dataset, self.column = dataset.with_format("arrow", columns=names), column

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, rows: np.ndarray) -> Any:
        table = self.dataset[rows]
        found = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            if column.null_count:
                raise InputError(_missing(column.null_count, name, len(rows)))
            found[name] = tensor_of(_values(column.combine_chunks(), name))
        return found if self.column is None else found[self.column]


def as_table(source: Any) -> Stored | None:
    """A table, a column of one, or a data set of Hugging Face's, as it is read; None for anything else, and for a data
    set that is read sample by sample because a function of the user's makes its samples."""
    arrow, hugging_face = sys.modules.get("pyarrow"), sys.modules.get("datasets")
    if arrow is not None:
        if isinstance(source, arrow.Table):
            return Table(source)
        if isinstance(source, arrow.ChunkedArray | arrow.Array):
            return ChunkedColumn(source)
    if hugging_face is not None:
        if isinstance(source, hugging_face.Dataset):
            return HuggingFace(source) if is_plain(source) else None
        if type(source).__name__ == "Column" and isinstance(getattr(source, "source", None), hugging_face.Dataset):
            return HuggingFace(source.source, source.column_name)
    return None


def is_plain(source: Any) -> bool:
    """Whether it is a data set of Hugging Face's, read as it is stored."""
    package = sys.modules.get("datasets")
    return package is not None and isinstance(source, package.Dataset) and source.format["type"] in _PLAIN_FORMATS


def rows_as_arrays(source: Any) -> Callable[[Any], Any] | None:
    """Of a stream of Hugging Face's that is read as it is stored, what makes arrays of the lists in a sample, which are
    rows of a tensor as they are in a data set with a length; None for any other stream."""
    package = sys.modules.get("datasets")
    if package is None or not isinstance(source, package.IterableDataset) or source._formatting is not None:
        return None
    return _arrays_of_lists


def _arrays_of_lists(row: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(part) if isinstance(part, list) else part for name, part in row.items()}


def _check_names(names: list[str]) -> None:
    if not names:
        raise InputError("a table of a data set has no columns")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"a table of a data set has two columns {twice!r}; rename one")


def _indices(rows: np.ndarray) -> Any:
    import pyarrow  # pyright: ignore

    return pyarrow.array(rows)


def _values(array: Any, name: str | None) -> np.ndarray:
    """What was taken of a chunk, as an array of shape (rows, ...): lists are a dimension each."""
    import pyarrow  # pyright: ignore

    kind, shape = array.type, [len(array)]
    while isinstance(array, pyarrow.ExtensionArray):
        array, kind = array.storage, array.storage.type
    while _is_list(kind):
        if array.null_count:
            raise InputError(_missing(array.null_count, name, len(array)))
        if pyarrow.types.is_fixed_size_list(kind):
            length = kind.list_size
        else:
            lengths = np.diff(array.offsets.to_numpy())
            if len(lengths) and (lengths != lengths[0]).any():
                raise InputError(_unequal(name))
            length = int(lengths[0]) if len(lengths) else 0
        shape.append(length)
        array = array.flatten()
        kind = array.type
    if array.null_count:
        raise InputError(_missing(array.null_count, name, len(array)))
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def _is_list(kind: Any) -> bool:
    from pyarrow import types  # pyright: ignore

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _check(kind: Any, name: str | None, remove: str = "table.drop_columns") -> None:
    """Raises InputError for a type of Arrow's that holds no numbers."""
    from pyarrow import types  # pyright: ignore

    inner = kind
    while True:
        if hasattr(inner, "storage_type"):
            inner = inner.storage_type
        elif _is_list(inner):
            inner = inner.value_type
        else:
            break
    if types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner):
        return
    which = "a column" if name is None else f"column {name!r}"
    drop = f"leave it out, with {remove}([{name or '...'!r}])"
    if types.is_string(inner) or types.is_large_string(inner) or types.is_dictionary(inner):
        raise InputError(f"{which} of a data set must hold numbers, and holds text; encode it, or {drop}")
    raise InputError(f"{which} of a data set must hold numbers, and holds {kind}; make numbers of it, or {drop}")


def _missing(count: int, name: str | None, rows: int) -> str:
    where = "a column" if name is None else f"column {name!r}"
    return f"values are missing: {count:,} in {where}, of {rows:,} rows; fill them, as with pyarrow.compute.fill_null"


def _unequal(name: str | None) -> str:
    which = "a column" if name is None else f"column {name!r}"
    return (
        f"rows of {which} are lists of unequal lengths, which make no batch; pad or cut them to one length, or set "
        "the collate of the data module, which is then given the samples as dicts"
    )


def _check_sent(table: Any) -> None:
    if table.nbytes > _SENT:
        raise InputError(
            f"a pyarrow table of {table.nbytes / 1e9:.3g} GB would be copied to each worker process; write it to a "
            "file and give metronome.data.mapped(file), or use data.num_workers=0"
        )
