"""A batch read from several data sets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import default_collate, get_worker_info

from metronome.data.mixtures.places import MixedOrder, Places, grouped
from metronome.data.mixtures.sampler import MixtureSampler
from metronome.data.mixtures.sets import Together
from metronome.data.rows import BatchReader
from metronome.training.batches.order import Share
from metronome.training.batches.seeds import generators_as_before, seed_of_set
from metronome.units import InputError


def reader_of(dataset: Any, sampler: Any, seed: int, *options: Any) -> BatchReader:
    """What reads the batches of a data set, or of several, that a sampler gives. `options`: those of BatchReader."""
    if not isinstance(dataset, Together):
        return BatchReader(dataset, seed, *options)
    is_mixed = isinstance(sampler, MixtureSampler)
    locate = MixedOrder(sampler.mix, seed, sampler.shuffles_sets) if is_mixed else dataset.places
    return MixtureReader(dataset, seed, locate, *options)


class MixtureReader(BatchReader):
    """Reads one device's share of a batch from several data sets, as BatchReader does from one.

    Where all of them are rows, each is indexed at once. Else sample by sample: what a sample's augmentation draws is a
    function of the run's seed, the name of its set, that set's own epoch, and its place in the set.

    Args:
        dataset: the sets.
        seed: of the run.
        locate: what stands at the places that a sampler gives.
        options: those of BatchReader.
    """

    def __init__(self, dataset: Together, seed: int, locate: Callable[[Share], Places], *options: Any) -> None:
        super().__init__(dataset, seed, *options)
        self.locate, self.is_rows = locate, dataset.is_rows
        sets = list(dataset.sets.values())
        if self.is_rows and self.floats is not None:  # as a whole, so that no step has to
            sets = [rows if rows.is_stored else rows.with_floats(self.floats) for rows in sets]
        self.readers = [
            BatchReader(each, seed_of_set(seed, name)) for name, each in zip(dataset.sets, sets, strict=True)
        ]
        if self.is_rows:
            columns = zip(*(tree_leaves(each.columns) for each in sets), strict=True)
            self._types = [_widest(same) for same in columns]

    def __getitems__(self, share: Share) -> Any:
        if self.is_rows or get_worker_info() is not None:
            return self.read(share)
        with generators_as_before():
            return self.read(share)

    def _read(self, share: Share) -> Any:
        places = self.locate(share)
        if self.is_rows:
            return self._indexed(places)
        samples: list[Any] = [None] * len(places.sets)
        for number, epoch, where in grouped(places.sets, places.epochs):
            reader = self.readers[number]
            found = reader.seeded(reader._sample, epoch, places.indices[where])
            for place, sample in zip(where.tolist(), found, strict=True):
                samples[place] = sample
        try:
            return self.collate(samples)
        except Exception as error:
            if self.collate is not default_collate:
                raise
            names = ", ".join(self.dataset.sets)
            raise InputError(
                f"samples of the sets {names} do not make a batch: {error}; each must have the same parts, of the same "
                "shapes"
            ) from error

    def _indexed(self, places: Places) -> Any:
        sets, indices = places.sets, places.indices
        parts: list[Any] = []
        for number in np.unique(sets).tolist():
            parts.append(self.readers[number].dataset[torch.from_numpy(indices[sets == number])])
        # They stand one set after the other; back at their places.
        back = np.empty(len(sets), dtype=np.int64)
        back[np.argsort(sets, kind="stable")] = np.arange(len(sets))
        order, types = torch.from_numpy(back), iter(self._types)

        def joined(*columns: Tensor) -> Tensor:
            dtype = next(types)
            return torch.cat([column.to(dtype) for column in columns]).index_select(0, order)

        return tree_map(joined, *parts)


def _widest(columns: tuple[Tensor, ...]) -> torch.dtype:
    """The type of a column in all batches, whichever sets are in them."""
    dtype = columns[0].dtype
    for column in columns[1:]:
        dtype = torch.promote_types(dtype, column.dtype)
    return dtype
