"""The noisy quadratic: its steps and its second moments against loops and recursions written apart from it."""

import csv
from functools import cache, partial
from math import sqrt
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from commands import Commands
from lightning.pytorch.callbacks import EarlyStopping

from metronome.models.schedulers import constant
from metronome.units import InputError
from project.data import Noise
from project.models import Quadratic
from project.models.quadratic import best_constants, best_rate, loss_at_last, steps_to

# Steps until the loss is a millionth, from weights of 1 along 50 curvatures: gradient descent and the heavy ball.
STEPS = {10: (28, 13), 100: (286, 52), 1000: (2948, 187)}
CURVATURES = np.geomspace(1e-3, 1, 50)


def quadratic(lr: float | str, momentum: float | str, **options: Any) -> Quadratic:
    return Quadratic(
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=momentum),  # pyright: ignore
        scheduler=constant,
        **options,
    )


def plain_steps(condition: float, lr: float, momentum: float) -> int:
    curvatures = np.geomspace(1, condition, 50)
    weights, velocity, steps = np.ones(50), np.zeros(50), 0
    first = curvatures.sum()
    while curvatures @ weights**2 > 1e-6 * first:
        velocity = momentum * velocity - lr * curvatures * weights
        weights, steps = weights + velocity, steps + 1
    return steps


@pytest.mark.parametrize("condition", STEPS)
def test_steps_of_a_plain_loop(condition: int) -> None:
    """In units in which the smallest curvature is 1, with the constants as Polyak has them."""
    root = sqrt(condition)
    descent, ball = (2 / (1 + condition), 0.0), (4 / (1 + root) ** 2, ((root - 1) / (root + 1)) ** 2)
    assert (plain_steps(condition, *descent), plain_steps(condition, *ball)) == STEPS[condition]
    for heavy_ball, constants in ((False, descent), (True, ball)):
        assert best_constants(1, condition, heavy_ball) == pytest.approx(constants)


@pytest.mark.parametrize(("condition", "momentum"), [(10, 0), (10, "best"), (100, "best")])
def test_steps_of_a_run(condition: int, momentum: Any) -> None:
    model = quadratic("best", momentum, num_walkers=1, condition=condition, noise=0, target=1e-6)
    stop = EarlyStopping("val/loss", stopping_threshold=1e-6, patience=9_999, check_on_train_epoch_end=False)
    data = Noise(1, 50, num_samples=1_000, batch_size=1)
    _, run = jobs.fit(model=model, data=data, max_epochs=1, val_check_interval=1, callbacks=[stop])
    assert run.global_step == STEPS[condition][momentum == "best"]


# ---- with noise ---------------------------------------------------------------------------------------------------


def exact_moments(curvature: float, variance: float, lr: float, momentum: float, steps: int) -> tuple[float, float]:
    """Mean and variance of a weight, from mean and covariance of (weight, velocity) as a linear system."""
    system = np.array([[1 - lr * curvature, -lr * momentum], [curvature, momentum]])
    noise = np.array([[lr * lr, -lr], [-lr, 1.0]]) * variance * curvature
    mean, covariance = np.array([1.0, 0.0]), np.zeros((2, 2))
    for _ in range(steps):
        mean, covariance = system @ mean, system @ covariance @ system.T + noise
    return mean[0], covariance[0, 0]


def exact_loss(variance: float, lr: float, momentum: float, steps: int) -> float:
    moments = [exact_moments(curvature, variance, lr, momentum, steps) for curvature in CURVATURES]
    return CURVATURES @ [mean**2 + spread for mean, spread in moments] / CURVATURES.sum()


CASES = [
    (0.1, 0.0, 1, 60),
    (1.0, 0.0, 4, 30),
    (1.9, 0.0, 4, 30),
    (0.1, 0.9, 1, 60),
    (1.0, 0.9, 4, 30),
    (1.9, 0.9, 16, 30),
]


@pytest.mark.parametrize(("lr", "momentum", "batch_size", "steps"), CASES)
def test_second_moments_after_some_steps(lr: float, momentum: float, batch_size: int, steps: int) -> None:
    """Over 1,000 walkers, within four standard errors of the exact value; the noise of one sample is 0.5."""
    model = quadratic(lr, momentum, num_walkers=1_000, num_weights=2, condition=100, noise=0.5)
    data = Noise(1_000, 2, num_samples=batch_size * steps, batch_size=batch_size, data_seed=3)
    model, run = jobs.fit(model=model, data=data, max_epochs=1)
    assert run.global_step == steps
    for name, curvature in (("flat", 0.01), ("steep", 1.0)):
        mean, variance = exact_moments(curvature, 0.25 / batch_size, lr, momentum, steps)
        error = sqrt((2 * variance**2 + 4 * mean**2 * variance) / 1_000)  # of a mean of squares of normal numbers
        assert float(run.callback_metrics[f"val/{name}"]) == pytest.approx(mean**2 + variance, abs=4 * error + 1e-6)


@pytest.mark.parametrize(("batch_size", "momentum"), [(64, 0.9), (1024, 0.5)])
def test_the_steps_that_are_expected(batch_size: int, momentum: float) -> None:
    """Their loss is below the target, and that of one step fewer is not; no other rate of the grid takes fewer."""
    variance, target = 0.03**2 / batch_size, 3e-4
    rate = best_rate(CURVATURES, variance, momentum, target)
    steps = steps_to(CURVATURES, variance, rate, momentum, target, 10_000)
    assert steps is not None
    assert exact_loss(variance, rate, momentum, steps) <= target < exact_loss(variance, rate, momentum, steps - 1)
    for factor in (0.5, sqrt(0.5), sqrt(2), 2):
        assert steps_to(CURVATURES, variance, rate * factor, momentum, target, steps - 1) is None


@cache
def expected(batch_size: int, momentum: float) -> int:
    variance, target = 0.03**2 / batch_size, 3e-4
    rate = best_rate(CURVATURES, variance, momentum, target)
    return steps_to(CURVATURES, variance, rate, momentum, target, 10_000) or 0


def test_where_momentum_helps() -> None:
    """Hardly with single samples, where noise is what takes the steps; fivefold with large batches, where it is the
    condition. And with single samples it works like another rate: lr / (1 - momentum)."""
    assert 1 < expected(1, 0.0) / expected(1, 0.9) < 1.2
    assert expected(1024, 0.0) / expected(1024, 0.9) > 5
    plain, ball = (best_rate(CURVATURES, 0.03**2, momentum, 3e-4) for momentum in (0.0, 0.9))
    assert ball / (1 - 0.9) == pytest.approx(plain, rel=0.5)


@pytest.mark.parametrize(("lr", "faster"), [(1.98, True), (1.0, False), (0.5, False), (0.02, True)])
def test_when_momentum_damps(lr: float, faster: bool) -> None:
    """Along a curvature of 1, without noise. Alone a rate beyond 1 goes from side to side, by 0.98 a step at 1.98; a
    momentum of 0.9 damps that to its square root, 0.95. But it brings the same where there was none: slower than at
    rates near 1, faster than at small ones."""
    alone, ball = ([exact_moments(1.0, 0.0, lr, momentum, steps)[0] for steps in range(1, 80)] for momentum in (0, 0.9))
    assert (max(map(abs, ball[-20:])) < max(map(abs, alone[-20:]))) == faster
    assert (min(alone) < 0) == (lr > 1)
    assert min(ball) < 0


@pytest.mark.parametrize(("lr", "momentum"), [(0.5, 0.0), (1.9, 0.5), (0.1, 0.9)])
def test_what_noise_leaves(lr: float, momentum: float) -> None:
    left = loss_at_last(np.array([0.1, 1.0]), 0.01, lr, momentum)
    exact = [exact_moments(curvature, 0.01, lr, momentum, 3_000)[1] for curvature in (0.1, 1.0)]
    assert left == pytest.approx((0.1 * exact[0] + exact[1]) / 1.1, rel=1e-6)


# ---- the studies --------------------------------------------------------------------------------------------------


def steps_in_study(commands: Commands, *arguments: str) -> dict[tuple[str, str], int]:
    done = commands("train", *arguments, "trainer=cpu")
    assert done.code == 0, done.err
    (table,) = done.folder.glob("runs/*/sweep_*/report/summary.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    swept = next(key for key in ("model.condition", "data.batch_size") if key in rows[0])
    return {(row[swept], row["optimizer.momentum"]): int(row["steps"]) for row in rows}


@pytest.mark.slow
def test_the_study_of_the_condition(commands: Commands, undrawn: None) -> None:
    steps = steps_in_study(commands, "+study=condition")
    found = {int(condition): (steps[condition, "0"], steps[condition, "best"]) for condition, _ in steps}
    assert found == STEPS


@pytest.mark.slow
def test_the_study_of_momentum_and_batch(commands: Commands, undrawn: None) -> None:
    """Within 15 % of the exact number of steps, and 2 more: the loss of 100 walkers is a mean of few along the flattest
    curvatures, and is the first to be low enough by chance."""
    steps = steps_in_study(commands, "+study=quadratic")
    assert len(steps) == 15
    for (batch_size, momentum), found in steps.items():
        assert found == pytest.approx(expected(int(batch_size), float(momentum)), rel=0.15, abs=2)


# ---- what is not allowed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "momentum", "options", "message"),
    [
        (0.1, 0, {"condition": 0.5}, "model.condition=0.5 is not a number 1 or more"),
        (0.1, 0, {"noise": -1}, "model.noise=-1 is not a number 0 or more"),
        (0.1, 0, {"target": 1}, "model.target=1 is not a number between 0 and 1"),
        (0.1, 0, {"num_walkers": 0}, "model.num_walkers=0 is not a number of walkers from 1 up"),
        (0.1, "best", {}, "optimizer.momentum=best is known without noise only; give a number, or model.noise=0"),
        ("best", 0.5, {"noise": 0}, "optimizer.momentum=0.5: without noise the best is known with 0, or with best"),
        ("best", 0, {"batch_size": "full"}, "optimizer.lr=best needs the batch size as a number, and it is 'full'"),
    ],
)
def test_a_bad_value_is_one_line(lr: Any, momentum: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        quadratic(lr, momentum, **options)
    assert str(error.value) == message
