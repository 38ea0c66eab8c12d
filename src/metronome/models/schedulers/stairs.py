"""Schedules that keep the rate, or multiply it at given times."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metronome.models.schedulers.checks import check_above_zero, is_rate
from metronome.models.schedulers.durations import position
from metronome.models.schedulers.warmup import warmed_up
from metronome.units import Duration, InputError, Plan


def constant(optimizer: Optimizer, plan: Plan | None = None, warmup: str | Duration = "0 steps") -> LambdaLR:
    """Keep the rate as it is, after the warm-up.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; without one a warm-up is given in steps.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: if the warm-up takes the whole run.
    """
    return warmed_up(optimizer, plan, warmup, lambda step: 1.0)


def step(
    optimizer: Optimizer,
    plan: Plan,
    every: str | Duration = "10 epochs",
    factor: float = 0.1,
    warmup: str | Duration = "0 steps",
) -> LambdaLR:
    """Multiply the rate by `factor` after each `every`, counted from the start of the run.

    Where the batch grows, epochs have different numbers of steps; epochs are counted as they are.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; it need not have an end.
        every: a duration above zero: `10 epochs`, `500 steps`, `25%`.
        factor: above 0.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: for a value that is not allowed, or a warm-up that takes the whole run.
    """
    check_above_zero("factor", factor)
    length = Duration.parse(every)
    if length.value == 0:
        raise InputError(f"scheduler.every={every} is no time at all; give for example scheduler.every='10 epochs'")
    plan.steps(length)  # or say now what is wrong with it

    def falls(step: int) -> int:
        if length.unit != "percent":
            return int(position(plan, step, length) / length.value)
        multiples = range(1, int(100 / length.value) + 1)
        return bisect_right(multiples, step, key=lambda n: plan.steps(Duration(n * length.value, "percent")))

    if plan.total_steps is not None:
        _power(optimizer, factor, falls(plan.total_steps))
    return warmed_up(optimizer, plan, warmup, lambda step: _power(optimizer, factor, falls(step)))


def multistep(
    optimizer: Optimizer,
    plan: Plan,
    at: Sequence[str | Duration] = ("50%", "75%"),
    factor: float = 0.1,
    warmup: str | Duration = "0 steps",
) -> LambdaLR:
    """Multiply the rate by `factor` at each of the given times, counted from the start of the run.

    Source: He et al. (2016), arXiv 1512.03385, who divide it by 10 at 50 % and 75 % of the training.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; it needs an end only for times in percent.
        at: durations, rising: `[30 epochs, 60 epochs]`, `[50%, 75%]`.
        factor: above 0.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: for a value that is not allowed, or a warm-up that takes the whole run.
    """
    check_above_zero("factor", factor)
    if isinstance(at, str) or not isinstance(at, Sequence):
        raise InputError(f"scheduler.at={at!r} is not a list of durations; write for example scheduler.at=[50%,75%]")
    if not at:
        raise InputError("scheduler.at=[] has no time; write for example scheduler.at=[50%,75%], or scheduler=constant")
    times = [Duration.parse(time) for time in at]
    steps = [plan.steps(time) for time in times]
    # In a short run two times may fall on the same step; that is no mistake.
    if steps != sorted(steps) or len(set(times)) < len(times):
        given = ",".join(str(time) for time in at)
        raise InputError(f"scheduler.at=[{given}] does not rise; give each time once, the earliest first")
    _power(optimizer, factor, bisect_right(steps, plan.total_steps or 0))
    return warmed_up(optimizer, plan, warmup, lambda step: _power(optimizer, factor, bisect_right(steps, step)))


def _power(optimizer: Optimizer, factor: float, times: int) -> float:
    """The factor of so many falls, or rises. Raises InputError where a rate is no number any more."""
    try:
        power = float(factor) ** times
    except OverflowError:
        power = math.inf
    if not is_rate(optimizer, power):
        raise InputError(f"scheduler.factor={factor} makes the rate infinite after {times} times; make it smaller")
    return power
