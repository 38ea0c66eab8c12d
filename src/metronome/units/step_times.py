"""What the times of single steps come to: of a step, and of a whole training."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import mean, median, quantiles
from typing import Any

from metronome.units.plan import Plan

_HICCUP = 3.0  # times the median: something else ran on the machine


@dataclass(frozen=True)
class StepTimes:
    """Seconds a step, over the steps measured.

    Attributes:
        median, low, high: the middle one, and the quartiles beside it.
        mean: for sums; one above three times the median counts as that.
        epoch: what the first step of an epoch takes beyond the others: a new order, what is done once an epoch.
        count: steps that were measured.
    """

    median: float
    low: float
    high: float
    mean: float
    epoch: float
    count: int

    @classmethod
    def of(cls, within: Sequence[float], across: Sequence[float] = (), per: int = 1) -> "StepTimes":
        """Of the times of steps inside an epoch, and of those that are the first of one; each is a mean over `per`.

        >>> StepTimes.of([1.0, 1.0, 2.0, 9.0, 1.0], [3.0])
        StepTimes(median=1.0, low=1.0, high=2.0, mean=1.6, epoch=2.0, count=6)
        """
        inside = list(within) or list(across)
        middle = median(inside)
        low, _, high = quantiles(inside, n=4, method="inclusive") if len(inside) > 1 else inside * 3
        usual = mean(min(seconds, _HICCUP * middle) for seconds in inside)
        epoch = max(median(across) - middle, 0.0) * per if across and within else 0.0
        return cls(middle, low, high, usual, epoch, (len(within) + len(across)) * per)


def validations(plan: Plan, interval: Any, every_epochs: Any) -> int | None:
    """How often a training validates; None where that is not known.

    Args:
        plan: of the training.
        interval: `val_check_interval`: steps, or a part of an epoch.
        every_epochs: `check_val_every_n_epoch`; None where the interval counts steps across epochs.

    >>> from metronome.units import BatchSchedule, Duration
    >>> plan = Plan.make(1257, BatchSchedule(64), budgets=[Duration.parse("15 epochs")])
    >>> validations(plan, 1.0, 1), validations(plan, 0.25, 1), validations(plan, 7, None), validations(plan, 1.0, 2)
    (15, 60, 43, 7)
    """
    if plan.total_steps is None or plan.epochs is None or not isinstance(interval, int | float) or interval <= 0:
        return None
    if every_epochs is None:
        return ceil(plan.total_steps / interval) if isinstance(interval, int) else None
    counted = 0
    for epoch in plan.per_epoch:
        if (epoch.epoch + 1) % every_epochs == 0:
            whole = plan.series.epoch(epoch.epoch).steps
            every = interval if isinstance(interval, int) else max(1, int(whole * interval))
            counted += epoch.steps // every
    # Of very many epochs only the first are listed; they stand for the others.
    counted = round(counted * plan.epochs / max(len(plan.per_epoch), 1))
    last = plan.per_epoch[-1]
    cut_short = len(plan.per_epoch) == plan.epochs and last.steps < plan.series.epoch(last.epoch).steps
    return counted + int(cut_short)  # at its end it is validated all the same
