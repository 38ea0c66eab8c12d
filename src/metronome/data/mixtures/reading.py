"""A batch read from several data sets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
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
        self.locate, self.joined = locate, dataset.joined
        sets = list(dataset.sets.values())
        if self.joined is not None and self.floats is not None:
            # In memory as a whole, so that no step has to.
            sets = [rows if rows.is_stored else rows.with_floats(self.floats) for rows in sets]
            if self.joined.has_float64:
                self.told.about(torch.empty(0, dtype=torch.float64), self.floats)
        self.readers = [
            BatchReader(each, seed_of_set(seed, name)) for name, each in zip(dataset.sets, sets, strict=True)
        ]

    def __getitems__(self, share: Share) -> Any:
        if self.joined is not None or get_worker_info() is not None:
            return self.read(share)
        with generators_as_before():
            return self.read(share)

    def _read(self, share: Share) -> Any:
        places = self.locate(share)
        if self.joined is not None:
            sets = [(number, np.flatnonzero(places.sets == number)) for number in np.unique(places.sets).tolist()]
            found = [self.readers[number].dataset[torch.from_numpy(places.indices[where])] for number, where in sets]
            return self.joined(found, np.concatenate([where for _, where in sets]), self.floats)
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
