"""Whether something given as a column, or as a data set, is stored, and how it is read then."""

from typing import Any

from metronome.data.stored.computed import ComputedArray, computes_rows
from metronome.data.stored.mapped import MappedArray, root_of
from metronome.data.stored.stored import Stored
from metronome.data.stored.tables import as_table


def as_stored(source: Any) -> Stored | None:
    """It as a column that is read a batch at a time where it is stored; None for anything in memory.

    Raises:
        InputError: if it holds no numbers.
    """
    if isinstance(source, Stored):
        return source
    if root_of(source) is not None and source.ndim > 0:
        return MappedArray(source)
    table = as_table(source)
    return ComputedArray(source) if table is None and computes_rows(source) else table
