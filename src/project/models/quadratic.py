"""A noisy quadratic: a problem so simple that what rate, momentum and batch size do to it is known exactly."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from metronome.units import InputError, check_number
from project.models.walkers import Walkers

_LONGEST = 100_000  # steps after which a rate counts as one that does not come there


class Quadratic(Walkers):
    """Half the sum of curvature x weight^2; curvatures from 1 / condition to 1, evenly spaced by their logarithm.

    Each walker starts at weights of 1. The noise in a gradient has a variance in proportion to the curvature, as it has
    near the minimum of a network's loss (Zhang et al. 2019, arXiv 1907.04164, section 3).

    Logs, as `val/...` and `test/...`: `loss`, the mean height as a part of what it was at the start; `steep` and
    `flat`, the mean squares of the weights along the largest and the smallest curvature, which were 1.

    Args:
        num_walkers: walkers.
        num_weights: weights, and curvatures.
        condition: the largest curvature as a multiple of the smallest.
        noise: standard deviation of the noise of one sample along the largest curvature.
        batch_size: samples in a batch; asked only where a rate is to be worked out.
        target: a loss, as a part of what it was; the best rate is the one that comes there in the fewest steps.
        optimizer: called with the parameters, and with what was worked out for it. Of `torch.optim.SGD` the `lr` may be
            `best`: without noise the constants of `best_constants`, with noise the best power of the square root of 2
            by `steps_to`. And without noise `momentum` may be `best`.
        options: those of `Walkers`.
    """

    curvature: Tensor

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        num_walkers: int = 1_000,
        num_weights: int = 50,
        condition: float = 1_000,
        noise: float = 0.03,
        batch_size: int | str = 1,
        target: float = 3e-4,
        **options: Any,
    ) -> None:
        check_number("model.num_walkers", num_walkers, "walkers")
        check_number("model.num_weights", num_weights, "weights")
        for name, value, fits in (
            ("condition", condition, condition >= 1),
            ("noise", noise, noise >= 0),
            ("target", target, 0 < target < 1),
        ):
            if not fits:
                allowed = {"condition": "1 or more", "noise": "0 or more", "target": "between 0 and 1"}[name]
                raise InputError(f"model.{name}={value!r} is not a number {allowed}")
        curvatures = np.geomspace(1 / condition, 1, num_weights)
        if "best" in (wanted := getattr(optimizer, "keywords", {})).values():
            optimizer = _with_best(optimizer, wanted, curvatures, noise, batch_size, target)
        curvature = torch.tensor(curvatures, dtype=torch.float32)
        super().__init__(torch.ones(num_walkers, num_weights), noise * curvature.sqrt(), optimizer, **options)
        self.register_buffer("curvature", curvature, persistent=False)

    def heights(self, weights: Tensor) -> Tensor:
        return (weights.square() * self.curvature).sum(1) / 2

    def found(self) -> dict[str, Tensor]:
        start = self.curvature.sum() / 2
        squares = self.weights.square().mean(0)
        return {"loss": self.heights(self.weights).mean() / start, "steep": squares[-1], "flat": squares[0]}


def _with_best(
    optimizer: Callable[..., Optimizer],
    wanted: dict[str, Any],
    curvatures: np.ndarray,
    noise: float,
    batch_size: int | str,
    target: float,
) -> Callable[..., Optimizer]:
    if getattr(optimizer, "func", None) is not SGD or wanted.get("nesterov") or wanted.get("weight_decay"):
        raise InputError(
            "'best' is known of torch.optim.SGD without Nesterov's momentum and weight decay; give a number"
        )
    momentum = wanted.get("momentum", 0.0)
    if noise == 0:
        lr, best_momentum = best_constants(float(curvatures[0]), float(curvatures[-1]), heavy_ball=momentum == "best")
        if momentum not in ("best", 0):
            raise InputError(f"optimizer.momentum={momentum}: without noise the best is known with 0, or with best")
        return partial(optimizer, lr=lr if wanted["lr"] == "best" else wanted["lr"], momentum=best_momentum)
    if momentum == "best":
        raise InputError("optimizer.momentum=best is known without noise only; give a number, or model.noise=0")
    if not isinstance(batch_size, int):
        raise InputError(f"optimizer.lr=best needs the batch size as a number, and it is {batch_size!r}")
    return partial(optimizer, lr=best_rate(curvatures, noise**2 / batch_size, momentum, target))


def best_constants(least: float, most: float, heavy_ball: bool) -> tuple[float, float]:
    """The rate and the momentum with which a quadratic without noise converges fastest, by its extreme curvatures:
    of gradient descent, or of the heavy ball (Polyak 1964)."""
    if not heavy_ball:
        return 2 / (most + least), 0.0
    root_most, root_least = most**0.5, least**0.5
    return 4 / (root_most + root_least) ** 2, ((root_most - root_least) / (root_most + root_least)) ** 2


def best_rate(curvatures: np.ndarray, variance: float, momentum: float, target: float) -> float:
    """The power of the square root of 2 that comes to the target in the fewest steps; of equal ones the smallest."""
    best, fewest = None, _LONGEST
    for half_powers in range(4, -41, -1):
        rate = 2 ** (half_powers / 2)
        if loss_at_last(curvatures, variance, rate, momentum) >= target:
            continue  # it would walk for ever
        steps = steps_to(curvatures, variance, rate, momentum, target, fewest)
        if steps is not None:
            best, fewest = rate, steps
        elif best is not None:
            break  # smaller ones take longer still
    if best is None:
        raise InputError(f"no rate comes to model.target={target:g} within {_LONGEST:,} steps; give a larger one")
    return best


def loss_at_last(curvatures: np.ndarray, variance: float, lr: float, momentum: float) -> float:
    """The expected loss that noise leaves after very many steps, as a part of that at weights of 1."""
    room = 2 * (1 + momentum) - lr * curvatures
    if room.min() <= 0:
        return float("inf")  # so large a rate diverges
    squares = lr * variance * (1 + momentum) / ((1 - momentum) * room)
    return float((curvatures * squares).sum() / curvatures.sum())


def steps_to(
    curvatures: np.ndarray, variance: float, lr: float, momentum: float, target: float, most: int
) -> int | None:
    """After how many steps the expected loss is down to this part of what it was; None: not within `most` steps.

    Along each curvature h the second moments of the weight w and the velocity v follow v <- m v + h w + noise,
    w <- w - lr v exactly, from w = 1, v = 0.

    Args:
        curvatures: of the quadratic.
        variance: of the noise in the gradient of a batch, along a curvature of 1; elsewhere in proportion.
        lr: the rate.
        momentum: m.
        target: the part of the loss.
        most: steps to try.
    """
    h = curvatures
    ww, wv, vv = np.ones_like(h), np.zeros_like(h), np.zeros_like(h)
    for step in range(1, most + 1):
        new_vv = momentum**2 * vv + 2 * momentum * h * wv + h**2 * ww + variance * h
        w_new_v = momentum * wv + h * ww
        ww, wv, vv = ww - 2 * lr * w_new_v + lr**2 * new_vv, w_new_v - lr * new_vv, new_vv
        loss = (h * ww).sum() / h.sum()
        if loss <= target:
            return step
        if loss > 1e6:
            return None
    return None
