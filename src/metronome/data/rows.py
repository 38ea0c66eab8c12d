"""Data sets, read a whole batch at a time where that is possible."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from metronome.data.columns import as_tensor, is_column, is_sparse
from metronome.data.floats import Told, cast, differ
from metronome.data.stored.known import as_stored
from metronome.data.stored.stored import Stored
from metronome.data.stored.tables import is_plain
from metronome.training.batches.order import Share
from metronome.training.batches.sample_seeds import SeededSamples
from metronome.training.batches.seeds import generators_as_before
from metronome.units import InputError


class Rows(Dataset):
    """Tensors or arrays in any nesting, one row a sample, indexed a whole batch at a time.

    Args:
        columns: a tensor, array, frame or series (`columns.py`), or what is stored (`stored/`), or a tuple or dict of
            them, all of the same length.

    Raises:
        InputError: if their lengths differ, or there is none; for what holds no numbers.
    """

    def __init__(self, columns: Any) -> None:
        self.columns = tree_map(_as_column, columns)
        # Read as it is needed, and so never cast, nor taken to a device, as a whole.
        self.is_stored = any(isinstance(column, Stored) for column in tree_leaves(self.columns))
        self._cast: dict[torch.dtype, Rows] = {}
        lengths = [len(column) for column in tree_leaves(self.columns)]
        if len(set(lengths)) != 1:
            raise InputError(f"the columns of a data set must be equally long, and these have lengths {lengths}")
        self.length = lengths[0]

    def __len__(self) -> int:
        return self.length

    def with_floats(self, dtype: torch.dtype) -> "Rows":
        """The same rows with all floats of one type; made once, and these where they are so already."""
        if not differ(self.columns, dtype):
            return self
        if dtype not in self._cast:
            self._cast[dtype] = Rows(cast(self.columns, dtype))
        return self._cast[dtype]

    def __getitem__(self, index: Any) -> Any:
        if self.is_stored:
            return self._read(index)
        if type(self.columns) is tuple and all(type(column) is Tensor for column in self.columns):
            return tuple(_taken(column, index) for column in self.columns)
        return tree_map(lambda column: _taken(column, index), self.columns)

    def _read(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            return tree_map(lambda part: part[0], self._read(np.array([range(self.length)[index]])))
        rows = np.arange(*index.indices(self.length)) if isinstance(index, slice) else np.asarray(index)
        places = torch.from_numpy(rows)
        return tree_map(lambda part: part.read(rows) if isinstance(part, Stored) else part[places], self.columns)


def _as_column(source: Any) -> Tensor | Stored:
    stored = as_stored(source)
    return as_tensor(source) if stored is None else stored


def _taken(column: Tensor, index: Any) -> Tensor:
    # The same as by an index of a tensor, at a fifth of its cost for a small batch.
    return column.index_select(0, index) if isinstance(index, Tensor) and index.ndim == 1 else column[index]


class BatchReader(Dataset):
    """Reads one device's share of a batch from a data set, and collates it.

    Rows are indexed at once. Any other data set (a subclass of Rows that reads in its own way too) is read sample by
    sample, each with the generators of torch, numpy and Python seeded from (seed, epoch, sample index): its
    augmentation does not depend on the number of workers, nor on what was read before.

    Args:
        dataset: rows, or samples.
        seed: of the run.
        collate: makes a batch of a list of samples.
        floats: what the floats of each batch are cast to; None: as they come.
        told: says so.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int,
        collate: Any = default_collate,
        floats: torch.dtype | None = None,
        told: Told | None = None,
    ) -> None:
        self.dataset, self.seeded, self.collate = dataset, SeededSamples(seed), collate
        self.floats, self.told = floats, told or Told()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, share: Share) -> Any:
        if is_rows(self.dataset) or get_worker_info() is not None:
            return self.read(share)
        with generators_as_before():
            return self.read(share)

    def read(self, share: Share) -> Any:
        """The same, for who seeds the generators of this process anew before drawing from them: it takes less time."""
        batch = self._read(share)
        if not differ(batch, self.floats):
            return batch
        self.told.about(batch, self.floats)
        return cast(batch, self.floats)

    def _read(self, share: Share) -> Any:
        if is_rows(self.dataset):
            return self.dataset[torch.from_numpy(share.indices)]
        if is_plain(self.dataset):  # nobody draws random numbers there
            samples = self.dataset.__getitems__(share.indices.tolist())
        else:
            samples = self.seeded(self._sample, share.epoch, share.indices)
        try:
            return self.collate(samples)
        except Exception as error:
            if self.collate is not default_collate:
                raise
            first = ", ".join(map(str, share.indices[:3].tolist()))
            raise InputError(
                f"samples {first}, ... of {type(self.dataset).__name__} do not make a batch: {error}; each must have "
                "the same parts, of the same shapes"
            ) from error

    def _sample(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            if isinstance(error, OSError) and error.filename is not None:
                # From a worker process it would come without the name.
                raise InputError(f"sample {index}: {error.filename}: {error.strerror}") from error
            error.add_note(f"in sample {index} of {type(self.dataset).__name__}")
            raise


def is_rows(dataset: Any) -> bool:
    """Whether a data set is read by indexing tensors and nothing else; a subclass may read in its own way."""
    return isinstance(dataset, Rows) and type(dataset).__getitem__ is Rows.__getitem__


def as_dataset(source: Any, collate: Any = default_collate) -> Any:
    """A map-style Dataset or a list of samples as it is; tensors or arrays, in memory or stored, in tuples and dicts as
    you like, as Rows.

    Args:
        source: such.
        collate: what makes a batch of a list of samples. One of the user's is given the samples of a data set of
            Hugging Face's, where the default has nothing to do, since its columns are read as tensors.

    Raises:
        InputError: for anything else.
    """
    if callable(collated_by := getattr(source, "collated_by", None)):  # a mixture, which reads its sets likewise
        return collated_by(collate)
    if not (collate is not default_collate and is_plain(source)) and _is_columns(source):
        return Rows(source)
    # These have a length and items too: a tuple of a tensor and a list would be a data set of two samples.
    no_samples = isinstance(source, tuple | Mapping | str | Tensor | np.ndarray | IterableDataset) or is_sparse(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not no_samples:
        return source
    kinds = ", ".join(type(part).__name__ for part in _parts(source))
    advice = "; of a sparse matrix x.toarray() makes one" if any(map(is_sparse, [source, *_parts(source)])) else ""
    if (
        isinstance(source, Mapping) and source and not _parts(source)
    ):  # of columns, or of data sets: an .npz, a group of h5py
        advice = f"; it has {', '.join(map(repr, list(source)[:5]))}: give one of them, or several in a dict"
    if "safe_open" in (type(source).__name__, *kinds.split(", ")):
        advice = "; of a safetensors file metronome.data.mapped(path) makes them"
    raise InputError(
        "a data set must be a map-style Dataset (with __len__ and __getitem__), a list of samples, or tensors or "
        f"arrays in tuples or dicts, and this is a {type(source).__name__}{' of ' if kinds else ''}{kinds}{advice}"
    )


def _is_columns(source: Any) -> bool:
    if is_column(source) or as_stored(source) is not None:
        return True
    parts = _parts(source)
    return bool(parts) and all(_is_columns(part) for part in parts)


def _parts(source: Any) -> list:
    """What a tuple or dict is made of. A list is a data set of samples already, and Hugging Face's DatasetDict holds
    data sets, not columns."""
    if type(source).__name__ == "DatasetDict":
        return []
    return list(source.values() if isinstance(source, dict) else source if isinstance(source, tuple) else ())


def whole_batch(batch: Any) -> Any:
    """The loader's collate function: the reader has collated already."""
    return batch
