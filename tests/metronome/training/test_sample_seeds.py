"""Samples that are read one by one: what each draws is a function of (seed, epoch, sample), whatever is seeded."""

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from metronome.training.batches.sample_seeds import SeededSamples

SEED, EPOCH, SAMPLES, BATCH = 7, 3, 40, 8
DRAWS: dict[str, Callable[[], float]] = {
    "torch": lambda: torch.rand((), dtype=torch.float64).item(),
    "numpy": lambda: np.random.random_sample(),
    "python": lambda: random.random(),
}


def drawn_by_hand(kind: str, index: int) -> float:
    """With generators of their own, seeded by numpy's SeedSequence for this sample."""
    words = np.random.SeedSequence((SEED, EPOCH), spawn_key=(1, index)).generate_state(4).tolist()
    if kind == "torch":
        generator = torch.Generator().manual_seed(words[1] << 32 | words[0])
        return torch.rand((), generator=generator, dtype=torch.float64).item()
    return np.random.RandomState(words[2]).random_sample() if kind == "numpy" else random.Random(words[3]).random()


class Samples:
    """A sample is what it draws, from the generators that `kinds` names for its index; counts how often it is read."""

    def __init__(self, kinds: Callable[[int], tuple[str, ...]]) -> None:
        self.kinds, self.reads = kinds, np.zeros(SAMPLES, dtype=int)

    def __call__(self, index: int) -> dict[str, float]:
        self.reads[index] += 1
        return {kind: DRAWS[kind]() for kind in self.kinds(index)}


def read_all(seeded: SeededSamples, samples: Samples) -> list[Any]:
    return [one for batch in np.arange(SAMPLES).reshape(-1, BATCH) for one in seeded(samples, EPOCH, batch)]


@pytest.mark.parametrize("kinds", [(), ("torch",), ("numpy",), ("python",), ("torch", "python"), tuple(DRAWS)])
def test_what_a_sample_draws(kinds: tuple[str, ...]) -> None:
    samples = Samples(lambda _: kinds)
    found = read_all(SeededSamples(SEED), samples)
    assert found == [{kind: drawn_by_hand(kind, index) for kind in kinds} for index in range(SAMPLES)]
    assert (samples.reads == 1).all()


@pytest.mark.parametrize("late", DRAWS)
@pytest.mark.parametrize("first", [3, 8, 21, 39])
def test_a_generator_that_is_drawn_from_late(late: str, first: int) -> None:
    """One sample alone draws from it: where it is not of the first batch, its batch is read once more; but torch's is
    seeded in any case."""
    always = next(kind for kind in DRAWS if kind != late)
    samples = Samples(lambda index: (always, late) if index == first else (always,))
    found = read_all(SeededSamples(SEED), samples)
    expected = [{kind: drawn_by_hand(kind, index) for kind in samples.kinds(index)} for index in range(SAMPLES)]
    assert found == expected
    twice = range(first // BATCH * BATCH, (first // BATCH + 1) * BATCH) if first >= BATCH and late != "torch" else ()
    assert np.flatnonzero(samples.reads == 2).tolist() == list(twice)


def test_only_what_is_drawn_from_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded, calls = SeededSamples(SEED), []
    samples = Samples(lambda _: ("torch",))
    seeded(samples, EPOCH, np.arange(BATCH))
    seed = np.random.seed
    monkeypatch.setattr(np.random, "seed", lambda value: (calls.append(value), seed(value)))
    seeded(samples, EPOCH, np.arange(BATCH, 2 * BATCH))
    assert len(calls) == 1  # to see that nobody has drawn


def test_it_can_be_sent_to_a_worker() -> None:
    seeded, samples = SeededSamples(SEED), Samples(lambda _: ("python",))
    expected = read_all(seeded, samples)
    assert read_all(pickle.loads(pickle.dumps(seeded)), samples) == expected


def test_a_data_set_that_seeds_by_itself() -> None:
    """As some do by hand: nothing of it is lost."""

    def read(index: int) -> tuple[float, float]:
        random.seed(index)
        return random.random(), np.random.random_sample()

    found = read_all(SeededSamples(SEED), read)  # pyright: ignore
    assert found == [(random.Random(index).random(), drawn_by_hand("numpy", index)) for index in range(SAMPLES)]


def forked(_: int) -> float:
    with torch.random.fork_rng(devices=[]):
        return torch.rand((), dtype=torch.float64).item()


@pytest.mark.parametrize(
    "read",
    [forked, lambda index: torch.initial_seed() ^ index],
    ids=["drawn and put back", "seeded by the seed"],
)
def test_a_draw_that_is_not_seen(read: Callable[[int], float]) -> None:
    """The state is what it was before; still every sample, in every epoch, has numbers of its own."""
    seeded, batches = SeededSamples(SEED), np.arange(SAMPLES).reshape(-1, BATCH)
    found = [one for epoch in range(3) for batch in batches for one in seeded(read, epoch, batch)]
    assert len(set(found)) == 3 * SAMPLES
    again = [SeededSamples(SEED)(read, 1, np.array([index]))[0] for index in range(SAMPLES)]
    assert again == found[SAMPLES : 2 * SAMPLES]
