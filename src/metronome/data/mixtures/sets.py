"""Mixtures: several data sets as one, each with its weight and its own order."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.data import Dataset

from metronome.data.mixtures.places import Places
from metronome.data.rows import as_dataset, is_rows
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
        self.sets = {str(name): as_dataset(source) for name, source in sets.items() if source is not None}
        for name, dataset in self.sets.items():
            if isinstance(dataset, Together):
                raise InputError(f"set {name} is a mixture itself; name its sets here, with a weight for each")
            if len(dataset) == 0:
                raise InputError(f"set {name} of the mixture is empty")
        self._starts = np.cumsum([0, *(len(dataset) for dataset in self.sets.values())])
        self.is_rows = all(map(is_rows, self.sets.values()))
        if self.is_rows:
            _check_alike(self.sets)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Any:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return list(self.sets.values())[number][index - int(self._starts[number])]

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


def _check_alike(sets: Mapping[str, Any]) -> None:
    """Raises InputError for rows that do not make a batch together."""
    (first, rows), *others = sets.items()
    for name, other in others:
        if tree_flatten(rows.columns)[1] != tree_flatten(other.columns)[1]:
            raise InputError(f"the samples of sets {first} and {name} are not made of the same parts")
        for here, there in zip(tree_leaves(rows.columns), tree_leaves(other.columns), strict=True):
            same_kind = here.dtype == there.dtype or (here.is_floating_point() and there.is_floating_point())
            if here.shape[1:] != there.shape[1:] or not same_kind:
                raise InputError(
                    f"the samples of sets {first} and {name} do not make a batch: {_words(here)} and {_words(there)}"
                )


def _words(column: torch.Tensor) -> str:
    return f"{str(column.dtype).removeprefix('torch.')} of shape {tuple(column.shape[1:])}"
