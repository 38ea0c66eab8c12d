"""What stands at the places of a mixture: the set, its own epoch, and the sample; a function of the place."""

from typing import NamedTuple

import numpy as np

from metronome.training.batches.order import Share
from metronome.training.batches.seeds import Order, order_at, seed_of_set
from metronome.units.mixtures.mix import Mix


class Places(NamedTuple):
    """What stands at the places of a batch: of each its set, that set's own epoch, and the sample in it; int64."""

    sets: np.ndarray
    epochs: np.ndarray
    indices: np.ndarray


class MixedOrder:
    """What stands at the places of a mixture's epochs.

    Args:
        mix: how its sets are mixed.
        seed: of the run.
        shuffle: whether a set is reordered in each of its own epochs.
    """

    def __init__(self, mix: Mix, seed: int, shuffle: bool) -> None:
        self.mix, self.shuffle = mix, shuffle
        self.seeds, self.sizes = [seed_of_set(seed, name) for name in mix.names], list(mix.sizes.values())
        self._pattern, self._parts = np.array(mix.pattern), np.array(mix.parts)
        # How many of the same set stand before each place of a block.
        self._before = np.empty_like(self._pattern)
        for number in range(len(mix.parts)):
            (places,) = np.nonzero(self._pattern == number)
            self._before[places] = np.arange(len(places))
        self._orders: dict[int, tuple[int, Order]] = {}  # of each set, that of the epoch asked for last

    def __call__(self, share: Share) -> Places:
        blocks, rest = np.divmod(share.epoch * self.mix.samples_per_epoch + share.indices, self.mix.block)
        sets = self._pattern[rest]
        visits = blocks * self._parts[sets] + self._before[rest]
        epochs, indices = np.divmod(visits, np.array(self.sizes)[sets])
        if self.shuffle:
            for number, epoch, where in grouped(sets, epochs):
                indices[where] = self._order(number, epoch)(indices[where])
        return Places(sets, epochs, indices)

    def _order(self, number: int, epoch: int) -> Order:
        known = self._orders.get(number)
        if known is None or known[0] != epoch:
            known = self._orders[number] = epoch, order_at(self.seeds[number], epoch, self.sizes[number])
        return known[1]


def grouped(sets: np.ndarray, epochs: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Of a batch, the places of each set in each of its own epochs."""
    found: list[tuple[int, int, np.ndarray]] = []
    for number in np.unique(sets).tolist():
        (where,) = np.nonzero(sets == number)
        for epoch in np.unique(epochs[where]).tolist():
            found.append((number, epoch, where[epochs[where] == epoch]))
    return found
