"""Noise, and nothing else: what a sample adds to a gradient, for problems whose own gradient is known."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from metronome.data import DataModule, Splits
from metronome.units import InputError, check_number


class Noise(DataModule):
    """Each sample is a table of independent standard normal numbers: a row for each walker, that is, for each of many
    trainings that one run makes side by side (`project.models.walkers`). The mean of a batch of B samples is then noise
    of standard deviation 1 / sqrt(B), independent from walker to walker and from step to step.

    A batch is a float32 tensor of shape (samples, num_walkers, num_weights). A sample is drawn where it is read, from
    its number alone, so a data set of any length takes no memory. For validation and test there is one sample without
    noise, of shape (num_walkers, num_weights).

    Args:
        num_walkers: trainings side by side.
        num_weights: weights of each.
        num_samples: training samples; a second epoch would bring the same noise again.
        data_seed: another seed, other noise.
        options: those of `DataModule`.
    """

    def __init__(
        self,
        num_walkers: int = 1_000,
        num_weights: int = 1,
        num_samples: int = 1_000_000,
        data_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("data.num_walkers", num_walkers, "walkers")
        check_number("data.num_weights", num_weights, "weights")
        check_number("data.num_samples", num_samples, "samples")
        if isinstance(data_seed, bool) or not isinstance(data_seed, int) or not 0 <= data_seed < 2**63:
            raise InputError(f"data.data_seed={data_seed!r} is not a whole number from 0 up, below 2**63")
        self.size, self.shape, self.data_seed = num_samples, (num_walkers, num_weights), data_seed

    def load(self) -> Splits:
        silence = torch.zeros(1, *self.shape)
        return Splits(Draws(self.size, self.shape, self.data_seed), [silence[0]], [silence[0]])


class Draws(Dataset):
    """Sample i: float32 normal numbers of this shape, drawn from (seed, i)."""

    def __init__(self, size: int, shape: tuple[int, ...], seed: int) -> None:
        self.size, self.shape, self.seed = size, shape, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        # Philox counts through 2**256 places; each sample has 2**128 of them to itself.
        generator = np.random.Generator(np.random.Philox(key=self.seed, counter=int(index) << 128))
        return torch.from_numpy(generator.standard_normal(self.shape, dtype=np.float32))
