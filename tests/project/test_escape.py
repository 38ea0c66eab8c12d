"""The double well against a simulation in NumPy: how many walkers the noise of their batches brings over the top."""

from functools import cache, partial
from math import sqrt
from typing import Any

import jobs
import numpy as np
import pytest
import torch

from metronome.models.schedulers import constant
from metronome.units import InputError
from project.data import Noise
from project.models import DoubleWell

WALKERS, TILT, NOISE, RATE, STEPS = 1_000, 0.12, 5.25, 0.02, 3_000  # those of conf/experiment/escape.yaml


def trained(batch_size: int, lr: float = RATE, steps: int = STEPS, seed: int = 0) -> float:
    """The share that a run finds beyond the top."""
    model = DoubleWell(WALKERS, TILT, NOISE, optimizer=partial(torch.optim.SGD, lr=lr), scheduler=constant)
    data = Noise(WALKERS, num_samples=batch_size * steps, batch_size=batch_size, data_seed=seed)
    _, run = jobs.fit(model=model, data=data, max_epochs=1)
    assert run.global_step == steps
    return float(run.callback_metrics["val/escaped"])


@cache
def simulated(batch_size: int, lr: float = RATE, steps: int = STEPS, walkers: int = 4_000) -> float:
    """The same of x <- x - lr (x^3 - x - tilt + noise), with other random numbers."""
    shallow, top, _ = np.sort(np.roots([1, 0, -1, -TILT]).real)
    random, x = np.random.default_rng(batch_size), np.full(walkers, shallow)
    for _ in range(steps):
        x = x - lr * (x**3 - x - TILT + random.normal(0, NOISE / sqrt(batch_size), walkers))
    return float((x > top).mean())


def agree(found: float, wanted: float) -> bool:
    """Within four standard errors of the difference of two shares, of 1,000 and 4,000 walkers."""
    share = (found + 4 * wanted) / 5
    return abs(found - wanted) <= 4 * sqrt(share * (1 - share) * (1 / WALKERS + 1 / 4_000)) + 1e-9


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 200), (2, 400)])
def test_a_short_walk(batch_size: int, steps: int) -> None:
    found = trained(batch_size, steps=steps)
    assert 0.1 < found < 0.8
    assert agree(found, simulated(batch_size, steps=steps))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "least", "most"), [(1, 0.64, 0.74), (2, 0.78, 0.87), (4, 0.67, 0.78), (16, 0, 0.01), (32, 0, 0)]
)
def test_small_batches_leave_and_large_ones_stay(batch_size: int, least: float, most: float) -> None:
    """At one rate and equal steps."""
    found = trained(batch_size)
    assert least <= found <= most
    assert agree(found, simulated(batch_size))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [16, 32])
def test_with_its_rate_a_large_batch_leaves_too(batch_size: int) -> None:
    """Rate in proportion to the batch, and equal samples: rate / batch counts, and large batches do what those of 4 do,
    in a part of the steps; more steps take more of them over."""
    lr, fewer = RATE * batch_size / 4, STEPS * 4 // batch_size
    found = trained(batch_size, lr=lr, steps=fewer)
    assert 0.65 < found < 0.82
    assert agree(found, simulated(batch_size, lr=lr, steps=fewer))
    assert simulated(batch_size, lr=lr) > found


def test_all_start_at_the_shallow_minimum() -> None:
    model = DoubleWell(3, 0.12, optimizer=torch.optim.SGD, scheduler=constant)
    roots = np.sort(np.roots([1, 0, -1, -0.12]).real)
    assert model.weights.detach().flatten().tolist() == pytest.approx([roots[0]] * 3)
    assert model.top == pytest.approx(roots[1])
    model.heights(model.weights).sum().backward()
    assert model.weights.grad is not None
    assert model.weights.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tilt": 0.5}, "model.tilt=0.5 is not a number from 0 to 0.38"),
        ({"noise": -1}, "model.noise=-1 is not a standard deviation from 0 up"),
        ({"num_walkers": 0}, "model.num_walkers=0 is not a number of walkers from 1 up"),
    ],
)
def test_a_bad_value_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        DoubleWell(**options, optimizer=torch.optim.SGD, scheduler=constant)
    assert str(error.value) == message
