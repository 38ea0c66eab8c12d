"""SGD, plain, with momentum and with Nesterov's: the weights after each `optimizer.step()`, worked by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from commands import PROJECT
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn


def weight(start: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor(start, dtype=torch.float64))


def walk(make: Callable[..., Any], gradients: list[float], rates: list[float] | None = None) -> list[float]:
    """The weight after each step, from 1; with the given gradients, and rates if they change."""
    w = weight()
    optimizer, found = make([w]), []
    for i, gradient in enumerate(gradients):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[i]
        w.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        found.append(w.item())
    return found


SGD = partial(torch.optim.SGD, lr=0.1)
MOMENTUM, NESTEROV = partial(SGD, momentum=0.9), partial(SGD, momentum=0.9, nesterov=True)


@pytest.mark.parametrize(
    ("make", "gradients", "expected"),
    [
        # w <- w - 0.1 g, from w = 1
        (SGD, [0.5, 0.5, -1.0], [0.95, 0.9, 1.0]),
        (partial(SGD, lr=1.0), [0.5, 0.25, 0.0], [0.5, 0.25, 0.25]),
        # g <- g + 0.2 w: 1 - 0.1 (0.5 + 0.2), 0.93 - 0.1 (0.5 + 0.186)
        (partial(SGD, weight_decay=0.2), [0.5, 0.5], [0.93, 0.8614]),
        # v = 0.5, 0.9 * 0.5 + 0.5 = 0.95, 0.9 * 0.95 - 1 = -0.145, 0.9 * -0.145 = -0.1305
        (MOMENTUM, [0.5, 0.5, -1.0, 0.0], [0.95, 0.855, 0.8695, 0.88255]),
        # the same v, and steps of g + 0.9 v: 0.95, 1.355, -1 - 0.1305 = -1.1305, 0.9 * -0.1305 = -0.11745
        (NESTEROV, [0.5, 0.5, -1.0, 0.0], [0.905, 0.7695, 0.88255, 0.894295]),
        # a constant gradient is followed ten times as fast in the end: v -> 0.5 / (1 - 0.9) = 5
        (partial(MOMENTUM, lr=1.0), [0.5] * 3, [0.5, -0.45, -1.805]),
        (partial(SGD, momentum=0.0), [0.5, 0.5, -1.0], [0.95, 0.9, 1.0]),
    ],
)
def test_by_hand(make: Callable[..., Any], gradients: list[float], expected: list[float]) -> None:
    assert walk(make, gradients) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("name", "make"), [("sgd", SGD), ("momentum", MOMENTUM), ("nesterov", NESTEROV)])
def test_what_the_configuration_makes(name: str, make: Callable[..., Any]) -> None:
    """The file's formula is the one worked above."""
    content: dict[str, Any] = {}
    for file in {"sgd": ["sgd"], "momentum": ["sgd", "momentum"], "nesterov": ["sgd", "momentum", "nesterov"]}[name]:
        content |= OmegaConf.to_container(OmegaConf.load(PROJECT / f"conf/optimizer/{file}.yaml"))  # pyright: ignore
    content.pop("defaults", None)
    gradients = [0.5, 0.5, -1.0, 0.0]
    assert walk(instantiate(content), gradients) == walk(make, gradients)


def test_a_quadratic() -> None:
    """f(w) = w^2 / 2, g = w, lr 0.1, momentum 0.9: w = 1, 0.9, 0.72, 0.486, 0.2268."""
    w = weight()
    optimizer, found = MOMENTUM([w]), []
    for _ in range(4):
        optimizer.zero_grad()
        (w.square() / 2).backward()
        optimizer.step()
        found.append(w.item())
    # v = 1; 0.9 + 0.9 = 1.8; 1.62 + 0.72 = 2.34; 2.106 + 0.486 = 2.592
    assert found == pytest.approx([0.9, 0.72, 0.486, 0.2268], rel=1e-14)


# ---- two forms of momentum --------------------------------------------------------------------------------------


def classical(gradients: list[float], rates: list[float], beta: float) -> list[float]:
    """v <- beta v - lr g, w <- w + v: Polyak (1964), as written in Sutskever et al. (2013)."""
    w, v, found = 1.0, 0.0, []
    for gradient, rate in zip(gradients, rates, strict=True):
        v = beta * v - rate * gradient
        w += v
        found.append(w)
    return found


@settings(max_examples=200, deadline=None)
@given(
    gradients=st.lists(st.floats(-10, 10), min_size=1, max_size=30),
    lr=st.floats(1e-3, 1.0),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
)
def test_both_forms_are_one_while_the_rate_is_constant(gradients: list[float], lr: float, beta: float) -> None:
    """Classical v is -lr times torch's v."""
    theirs = walk(partial(torch.optim.SGD, lr=lr, momentum=beta), gradients)
    assert theirs == pytest.approx(classical(gradients, [lr] * len(gradients), beta), rel=1e-10, abs=1e-10)


def test_they_part_where_the_rate_changes() -> None:
    """Torch's new rate holds for all of v at once; the classical one only for what is added from there on.

    g = 0.5, 0.5, 0.5; lr = 0.1, 0.1, 0.01; beta = 0.9, from w = 1:
    torch      v = 0.5, 0.95, 1.355; w = 0.95, 0.855, 0.855 - 0.01 * 1.355 = 0.84145
    classical  v = -0.05, -0.095, -0.0855 - 0.005 = -0.0905; w = 0.95, 0.855, 0.7645
    """
    gradients, rates = [0.5] * 3, [0.1, 0.1, 0.01]
    theirs, ours = walk(MOMENTUM, gradients, rates), classical(gradients, rates, 0.9)
    assert theirs == pytest.approx([0.95, 0.855, 0.84145], rel=1e-14)
    assert ours == pytest.approx([0.95, 0.855, 0.7645], rel=1e-14)
    # (old rate - new rate) * beta * v, with torch's v before the change: 0.09 * 0.9 * 0.95
    assert theirs[2] - ours[2] == pytest.approx((0.1 - 0.01) * 0.9 * 0.95, rel=1e-13)


@settings(max_examples=200, deadline=None)
@given(
    gradients=st.lists(st.floats(-10, 10), min_size=2, max_size=20),
    rates=st.tuples(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0)),
    beta=st.sampled_from([0.5, 0.9, 0.99]),
    data=st.data(),
)
def test_by_how_much_they_part(
    gradients: list[float], rates: tuple[float, float], beta: float, data: st.DataObject
) -> None:
    """With v that of torch when the rate changes from a to b, after n more steps the weights differ by
    (a - b) * v * (beta + beta^2 + ... + beta^n)."""
    change = data.draw(st.integers(1, len(gradients) - 1))
    a, b = rates
    given = [a] * change + [b] * (len(gradients) - change)
    theirs, ours = (
        walk(partial(torch.optim.SGD, lr=a, momentum=beta), gradients, given),
        classical(gradients, given, beta),
    )
    velocity = 0.0
    for gradient in gradients[:change]:
        velocity = beta * velocity + gradient
    for n in range(len(gradients) - change + 1):
        expected = (a - b) * velocity * sum(beta**i for i in range(1, n + 1))
        found = theirs[change - 1 + n] - ours[change - 1 + n]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(gradients=st.lists(st.floats(-10, 10), min_size=1, max_size=20), lr=st.floats(1e-3, 1.0))
def test_nesterov_is_momentum_seen_from_one_step_ahead(gradients: list[float], lr: float) -> None:
    """Sutskever et al. (2013), eq. 7.3: v' = beta v - lr g(w + beta v), w' = w + v'. Torch keeps w + beta v, so that
    the gradient is that of the weights it has."""
    beta, w, v, ahead = 0.9, 1.0, 0.0, []
    for gradient in gradients:
        v = beta * v - lr * gradient
        w += v
        ahead.append(w + beta * v)
    found = walk(partial(torch.optim.SGD, lr=lr, momentum=beta, nesterov=True), gradients)
    assert found == pytest.approx(ahead, rel=1e-10, abs=1e-10)


# ---- Rprop and the mini-batch -----------------------------------------------------------------------------------

NINE_AND_ONE = [1] * 9 + [-9]  # hundredths: nine gradients of +0.01 and one of -0.09


def walk_by_samples(make: Callable[..., Any], batches: list[list[int]]) -> list[float]:
    """The weight after each step, one a batch, from 0. A sample's loss is its slope times the weight."""
    w = weight(0.0)
    optimizer, found = make([w]), []
    for batch in batches:
        optimizer.zero_grad()
        slopes = torch.tensor(batch, dtype=torch.float64)
        (0.01 * slopes.mean() * w).backward()
        optimizer.step()
        found.append(w.item())
    return found


def test_why_rprop_needs_the_full_batch() -> None:
    """Nine gradients of +0.01 and one of -0.09 cancel in the full batch, and not where each is a step of its own."""
    rprop = partial(torch.optim.Rprop, lr=0.01, etas=(0.5, 1.2))
    assert walk_by_samples(rprop, [NINE_AND_ONE] * 5) == [0.0] * 5
    singles = walk_by_samples(rprop, [[slope] for slope in NINE_AND_ONE * 2])
    # Nine times down, by 0.01 * 1.2^i: 0.01 * (1.2^9 - 1) / 0.2. The tenth has another sign: the step is halved, and
    # that update left out. Then nine times down again, beginning with the halved step.
    first = 0.01 * (1.2**9 - 1) / 0.2
    halved = 0.01 * 1.2**8 / 2
    assert singles[:3] == pytest.approx([-0.01, -0.022, -0.0364])
    assert singles[8:11] == pytest.approx([-first, -first, -first - halved])
    assert singles[19] == pytest.approx(-first - halved * (1.2**9 - 1) / 0.2)
    assert singles[19] < -0.65


def test_gradient_descent_does_not() -> None:
    """Its steps are as long as the gradients, so they cancel one after the other too."""
    assert walk_by_samples(SGD, [NINE_AND_ONE] * 5) == [0.0] * 5
    singles = walk_by_samples(SGD, [[slope] for slope in NINE_AND_ONE * 2])
    assert singles[8] == pytest.approx(-0.009)
    assert singles[9::10] == pytest.approx([0, 0], abs=1e-15)
