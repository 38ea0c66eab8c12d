from typing import Any

import pytest
import torch
from torch import Tensor

from metronome.units import InputError
from project.data import Linear


def columns(**options: Any) -> list[tuple[Tensor, Tensor]]:
    return [split.columns for split in Linear(**options).splits]


@pytest.mark.parametrize(
    ("num_samples", "num_features", "sizes"),
    [(1000, 10, [1000, 200, 200]), (54, 3, [54, 10, 10]), (4, 1, [4, 1, 1]), (1, 2, [1, 1, 1])],
)
def test_sizes(num_samples: int, num_features: int, sizes: list[int]) -> None:
    splits = columns(num_samples=num_samples, num_features=num_features)
    assert [tuple(x.shape) for x, _ in splits] == [(size, num_features) for size in sizes]
    assert [tuple(y.shape) for _, y in splits] == [(size, 1) for size in sizes]
    assert {column.dtype for split in splits for column in split} == {torch.float32}
    assert Linear(num_samples=num_samples).num_samples == num_samples


@pytest.mark.parametrize("noise", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("num_features", [1, 10])
def test_least_squares_leaves_the_noise(noise: float, num_features: int) -> None:
    (x, y), val, test = columns(noise=noise, num_features=num_features, num_samples=2000)
    weights = torch.linalg.lstsq(x, y).solution
    residual = y - x @ weights
    assert residual.square().sum().div(2000 - num_features).sqrt().item() == pytest.approx(noise, rel=0.08, abs=1e-5)
    for x, y in (val, test):  # 400 samples each, of the same line
        assert (y - x @ weights).square().mean().sqrt().item() == pytest.approx(noise, rel=0.15, abs=1e-5)


def test_the_data_have_a_seed_of_their_own() -> None:
    torch.manual_seed(1)
    first = columns(num_samples=20)
    torch.manual_seed(2)
    again, other = columns(num_samples=20), columns(num_samples=20, data_seed=1)
    for (x, y), (same_x, same_y), (other_x, other_y) in zip(first, again, other, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)
        assert not torch.equal(x, other_x)
        assert not torch.equal(y, other_y)


def test_the_splits_share_no_sample() -> None:
    values = torch.cat([x.flatten() for x, _ in columns(num_samples=50)])
    assert len(values.unique()) == len(values) == 70 * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "data.num_samples=0 is not a number of samples from 1 up"),
        ({"num_samples": -5}, "data.num_samples=-5 is not a number of samples from 1 up"),
        ({"num_features": 0}, "data.num_features=0 is not a number of features from 1 up"),
        ({"num_workers": -1}, "data.num_workers=-1 is not a number of processes from 0 up"),
    ],
)
def test_what_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as error:
        Linear(**options)  # pyright: ignore
    assert str(error.value) == message
