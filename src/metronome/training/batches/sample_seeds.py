"""Samples read one by one, each with the generators seeded for it; those that nobody draws from are left out."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from metronome.training.batches.seeds import sample_words


class _Source(NamedTuple):
    """A generator that a data set may draw from: seeded by its part of a sample's words, and drawn from."""

    seed: Callable[[Sequence[int]], Any]
    draw: Callable[[], float]


_SOURCES = (
    _Source(
        lambda words: torch.default_generator.manual_seed(words[1] << 32 | words[0]), lambda: torch.rand(()).item()
    ),
    _Source(lambda words: np.random.seed(words[2]), np.random.random_sample),
    _Source(lambda words: random.seed(words[3]), random.random),
)
_TORCH = 0  # its place among them
_MARK = (0x6D657472, 0x6F6E6F6D, 0x65000001, 0x65000002)  # the words by which it is seen that nobody has drawn


class SeededSamples:
    """Reads samples, their augmentation a function of (seed, epoch, sample): torch's generator (of the CPU), numpy's
    and Python's are seeded before each.

    Seeding all three takes as long as a small augmentation. So with the first samples it is found out whether the data
    set draws from numpy's and Python's, and only what it draws from is seeded from then on. Should it draw from another
    later, the samples of that batch are read once more: the result is the same. Torch's is always seeded: it takes a
    microsecond, and a data set may go by it without a draw that is seen (`torch.initial_seed()`, `fork_rng`).

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._used: list[int] | None = None  # places in _SOURCES, so that it can be sent to a worker
        self._unused_draws: list[float] = []

    def __call__(self, read: Callable[[int], Any], epoch: int, indices: np.ndarray) -> list[Any]:
        """The samples of these indices (int64, shape (samples,)). The generators are left as they happen to be."""
        words = sample_words(self.seed, epoch, indices)
        if self._used is None:
            return self._find_out(read, indices.tolist(), words)
        idle = [i for i in range(len(_SOURCES)) if i not in self._used]
        for i in idle:
            _SOURCES[i].seed(_MARK)
        samples = self._read(read, indices.tolist(), words)
        if drawn := [i for i in idle if _SOURCES[i].draw() != self._unused_draws[i]]:
            self._used += drawn
            samples = self._read(read, indices.tolist(), words)
        return samples

    def _read(self, read: Callable[[int], Any], indices: list[int], words: list[list[int]]) -> list[Any]:
        assert self._used is not None
        seeds, samples = [_SOURCES[i].seed for i in self._used], []
        for index, own in zip(indices, words, strict=True):
            for seed in seeds:
                seed(own)
            samples.append(read(index))
        return samples

    def _find_out(self, read: Callable[[int], Any], indices: list[int], words: list[list[int]]) -> list[Any]:
        used, samples = {_TORCH}, []
        for index, own in zip(indices, words, strict=True):
            for source in _SOURCES:
                source.seed(own)
            samples.append(read(index))
            used |= {i for i, source in enumerate(_SOURCES) if source.draw() != _first_draw(source, own)}
        self._used, self._unused_draws = sorted(used), [_first_draw(source, _MARK) for source in _SOURCES]
        return samples


def _first_draw(source: _Source, words: Sequence[int]) -> float:
    source.seed(words)
    return source.draw()
