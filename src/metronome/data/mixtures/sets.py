"""Mixtures: several data sets as one, each with its weight and its own order."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset, default_collate

from metronome.data.mixtures.joined import Joined
from metronome.data.mixtures.places import Places
from metronome.data.rows import as_dataset, is_rows
from metronome.data.stored.tables import is_plain
from metronome.training.batches.order import Share
from metronome.units import InputError
from metronome.units.mixtures.mix import Mix


class Together(Dataset):
    """Several data sets one after the other, every sample of each once. What a mixture is evaluated on.

    Args:
        sets: by name; each what a split may be. None of them is none.

    Raises:
        InputError: for a set that is no data set, or is empty; for sets of numbers whose samples differ in structure.
    """

    def __init__(self, sets: Mapping[str, Any]) -> None:
        # Whether one of Hugging Face's is rows or samples depends on who makes batches of it.
        self.sets = {str(name): as_dataset(source, None) for name, source in sets.items() if source is not None}
        for name, dataset in self.sets.items():
            if isinstance(dataset, Together):
                raise InputError(f"set {name} is a mixture itself; name its sets here, with a weight for each")
            if len(dataset) == 0:
                raise InputError(f"set {name} of the mixture is empty")
        self._starts = np.cumsum([0, *(len(dataset) for dataset in self.sets.values())])
        self.joined: Joined | None = None
        if not any(map(is_plain, self.sets.values())):
            self.collated_by(default_collate)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Any:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return list(self.sets.values())[number][index - int(self._starts[number])]

    def collated_by(self, collate: Any) -> "Together":
        """With its sets as they are read where this makes batches of samples: all as rows, or all sample by sample."""
        self.sets = {name: as_dataset(dataset, collate) for name, dataset in self.sets.items()}
        self.joined = Joined(self.sets) if all(map(is_rows, self.sets.values())) else None
        return self

    @property
    def is_rows(self) -> bool:
        return self.joined is not None

    def places(self, share: Share) -> Places:
        """Where these samples of all sets together are."""
        sets = np.searchsorted(self._starts, share.indices, side="right") - 1
        return Places(sets, np.full_like(sets, share.epoch), share.indices - self._starts[sets])


class Mixture(Together):
    """Several data sets that are trained on as one, in proportion to their weights.

        Splits(train=Mixture({"a": (x, y), "b": others}, weights={"a": 3, "b": 1}))

    A training is one line of samples, of which each set has its weight: exactly after each block of it (here of 4), and
    never a whole sample more or less. A set is gone through from its first to its last sample, in an order of its own,
    and then again in another; so a small one is seen several times while a large one is seen once. Which sample is at a
    place of the line is a function of the seed and the place: the same on any devices, with any workers, and after a
    resume.

    An epoch of it is, unless `epoch` says otherwise, so many samples that every sample of every set is among them: one
    set is gone through exactly once, the others more often. As a split for validation or test, a mixture is every
    sample of its sets once.

    Args:
        sets: by name; each what a split may be.
        weights: of the samples, a number above 0 for each set; only how they compare counts.
        alpha: in their place: the sets' sizes to this power (1: in proportion, which is the default; 0: all alike).
        epoch: a number of samples, or the name of the set that is gone through once in an epoch.

    Raises:
        InputError: for sets, weights or an epoch that are none.
    """

    def __init__(
        self,
        sets: Mapping[str, Any],
        weights: Mapping[str, Any] | None = None,
        *,
        alpha: float | None = None,
        epoch: str | int | None = None,
    ) -> None:
        super().__init__(sets)
        self.mix = Mix.of({name: len(dataset) for name, dataset in self.sets.items()}, weights, alpha, epoch)
