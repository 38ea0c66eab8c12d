"""A linear problem made from a seed: small, exact, and with a known answer."""

from typing import Any

import torch

from metronome.data import DataModule, Splits
from metronome.units import InputError, check_number


class Linear(DataModule):
    """y = x w + noise, with x and w normal.

    A batch is `(x, y)`: float32 of shapes (samples, num_features) and (samples, 1).

    Args:
        num_samples: training samples; validation and test have a fifth as many each, at least one.
        num_features: features in x.
        noise: standard deviation of the noise: the root mean square error that no model beats.
        data_seed: the data's own seed, so that the data stay the same over the seeds of a run.
        options: those of `DataModule`.
    """

    def __init__(
        self, num_samples: int = 1_000, num_features: int = 10, noise: float = 0.1, data_seed: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        check_number("data.num_samples", num_samples, "samples")
        check_number("data.num_features", num_features, "features")
        if not isinstance(noise, int | float) or noise < 0:
            raise InputError(f"data.noise={noise!r} is not a standard deviation from 0 up")
        if not isinstance(data_seed, int) or not 0 <= data_seed < 2**63:
            raise InputError(f"data.data_seed={data_seed!r} is not a whole number from 0 up, below 2**63")
        self.sizes = (num_samples, max(1, num_samples // 5), max(1, num_samples // 5))
        self.num_features, self.noise, self.data_seed = num_features, noise, data_seed

    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(self.data_seed)
        weights = torch.randn(self.num_features, 1, generator=generator)
        x = torch.randn(sum(self.sizes), self.num_features, generator=generator)
        y = x @ weights + self.noise * torch.randn(len(x), 1, generator=generator)
        return Splits(*zip(x.split(self.sizes), y.split(self.sizes), strict=True))
