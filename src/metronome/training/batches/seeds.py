"""Every random number from its place in the training: nothing to save, nothing to lose.

A generator is seeded anew for each step and for each augmented sample, so that what is drawn there depends
on that place alone, never on what was drawn before it. Seeds are made by numpy's `SeedSequence`, which mixes
its words well: with `seed + epoch`, the second epoch of seed 42 would be the first epoch of seed 43.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from zlib import crc32

import numpy as np
import torch

from metronome.training.batches.permutation import ROUNDS, Permutation
from metronome.training.batches.streams import stream_words
from metronome.units import InputError

# Spawn keys keep the streams apart: without them (seed, epoch) and (seed, epoch, 0, 0) give the same numbers.
_STEP, _SAMPLE, _ORDER, _FETCH, _SET = 0, 1, 2, 3, 4
_AT_ONCE = 256  # steps whose seeds are worked out together


def check_seed(seed: object) -> int:
    """The seed of a run: a whole number from 0 to 2**32 - 1. Raises InputError for anything else."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed={seed!r} is not a whole number from 0 to 4,294,967,295; for example seed=0")
    return seed


def seed_of_everything() -> int:
    """The seed of the last `seed_everything` of Lightning; 0 where there was none. Raises InputError for another."""
    text = os.environ.get("PL_GLOBAL_SEED", "0")  # where it stays, for other processes too
    return check_seed(int(text) if text.isdecimal() else text)


# Orders of more samples are computed where they are asked for. Measured on one core of a server (numpy 2.4): sorting
# takes 83, 96, 167 ns and 20 bytes a sample for 2**18, 2**20, 2**24 of them; computing 21 to 33 ns for any number. It
# would pay for fewer too; but what was sorted before must stay, and up to here it costs an epoch 0.1 s and 21 MB.
STORED_UP_TO = 2**20

Order = Callable[[np.ndarray], np.ndarray]  # places in an epoch -> the samples there; both int64, of one shape


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order in which an epoch visits its samples: a permutation of `num_samples` int64 indices.

    Sorting the raw words of PCG64 is slower than `Generator.permutation`, but numpy promises the words never
    to change and the permutation it does not (NEP 19), and a resumed run may meet a newer numpy.
    """
    if num_samples > STORED_UP_TO:
        return order_at(seed, epoch, num_samples)(np.arange(num_samples))
    words = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(num_samples)
    return np.argsort(words, kind="stable")


def order_at(seed: int, epoch: int, num_samples: int) -> Order:
    """The same order as a function of the place in it; for very many samples it costs what is asked for, no more."""
    if num_samples <= STORED_UP_TO:
        return epoch_order(seed, epoch, num_samples).take
    sequence = np.random.SeedSequence((seed, epoch), spawn_key=(_ORDER,))
    return Permutation(num_samples, sequence.generate_state(ROUNDS, np.uint64).tolist())


def seed_of_set(seed: int, name: str) -> int:
    """The seed of one set of a mixture, by its name: sets of the same size are not in the same order, and one more
    changes nothing in the others."""
    return int(np.random.SeedSequence(seed, spawn_key=(_SET, crc32(name.encode()))).generate_state(1)[0])


class StepSeeds:
    """Seeds torch's, numpy's and Python's generators for each step of one process (dropout, mixing, noise).

    Args:
        seed: of the run.
        device: whose generator is seeded too.
        rank: of the process; None for what is drawn while a batch is fetched, which must be alike in all of them.
    """

    def __init__(self, seed: int, device: torch.device, rank: int | None) -> None:
        self.seed, self.device = seed, device
        self._stream, self._rest = (_FETCH, ()) if rank is None else (_STEP, (rank,))
        self._words: list[list[int]] = []
        self._epoch = self._first = -1

    def __call__(self, epoch: int, step: int) -> None:
        at = step - self._first
        if epoch != self._epoch or not 0 <= at < len(self._words):
            self._epoch, self._first, at = epoch, step, 0
            steps = np.arange(step, step + _AT_ONCE, dtype=np.uint64)
            self._words = stream_words(self.seed, epoch, self._stream, steps, *self._rest).tolist()
        value = _seed_generators(*self._words[at])
        if self.device.type == "cuda":
            torch.cuda.manual_seed(value)
        elif self.device.type != "cpu":
            torch.manual_seed(value)


def sample_words(seed: int, epoch: int, indices: np.ndarray) -> list[list[int]]:
    """Four numbers for each of these samples: what its generators are seeded with."""
    return stream_words(seed, epoch, _SAMPLE, indices.astype(np.uint64)).tolist()


def remember_generators(device: torch.device | None = None) -> Callable[[], None]:
    """Remember torch's (of the CPU, and of a GPU), numpy's and Python's generators; what is returned puts them back."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None

    def put_back() -> None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_gpu is not None:
            assert device is not None
            torch.cuda.set_rng_state(on_gpu, device)

    return put_back


@contextmanager
def generators_as_before() -> Iterator[None]:
    """Put torch's (CPU), numpy's and Python's generators back as they were."""
    put_back = remember_generators()
    try:
        yield
    finally:
        put_back()


def _seed_generators(low: int, high: int, numpy_seed: int, python_seed: int) -> int:
    value = high << 32 | low
    # Not `torch.manual_seed`: it seeds every accelerator too, and before CUDA has begun keeps a stack trace for later,
    # which takes ten times as long as all the rest.
    torch.default_generator.manual_seed(value)
    np.random.seed(numpy_seed)
    random.seed(python_seed)
    return value
