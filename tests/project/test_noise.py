"""Noise: normal, independent, a B-th of the variance in a batch of B, and a function of the number of the sample."""

from typing import Any

import pytest
import torch

from metronome.units import InputError
from project.data import Noise


def batch(data: Noise, first: int, size: int) -> torch.Tensor:
    return torch.stack([data.splits.train[i] for i in range(first, first + size)])


def test_samples_are_normal_and_independent() -> None:
    samples = batch(Noise(num_walkers=50, num_weights=4), 0, 1_000)  # 200,000 numbers
    assert (samples.dtype, samples.shape) == (torch.float32, (1_000, 50, 4))
    assert samples.mean().abs() < 4 / 200_000**0.5
    assert samples.square().mean().item() == pytest.approx(1, abs=4 * (2 / 200_000) ** 0.5)
    assert samples.pow(4).mean().item() == pytest.approx(3, abs=4 * (96 / 200_000) ** 0.5)
    flat = samples.flatten(1)
    assert flat.T.corrcoef().fill_diagonal_(0).abs().max() < 6 / 1_000**0.5  # between walkers, and weights
    assert (flat[1:] * flat[:-1]).mean().abs() < 4 / 200_000**0.5  # from sample to sample


@pytest.mark.parametrize("size", [4, 64])
def test_the_mean_of_a_batch(size: int) -> None:
    means = torch.stack([batch(Noise(1_000), first, size).mean(0) for first in range(0, 10 * size, size)])
    assert means.square().mean().item() == pytest.approx(1 / size, rel=4 * (2 / 10_000) ** 0.5)


def test_a_sample_is_its_number_s() -> None:
    first, second, other = Noise(5), Noise(5, num_samples=10), Noise(5, data_seed=1)
    assert torch.equal(first.splits.train[7], second.splits.train[7])
    assert not torch.equal(first.splits.train[7], other.splits.train[7])
    assert [len(split) for split in second.splits] == [10, 1, 1]
    assert second.splits.val[0].tolist() == [[0.0]] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_walkers": 0}, "data.num_walkers=0 is not a number of walkers from 1 up"),
        ({"num_weights": 0}, "data.num_weights=0 is not a number of weights from 1 up"),
        ({"num_samples": 0}, "data.num_samples=0 is not a number of samples from 1 up"),
        ({"data_seed": -1}, "data.data_seed=-1 is not a whole number from 0 up, below 2**63"),
    ],
)
def test_a_bad_value_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Noise(**options)
    assert str(error.value) == message
