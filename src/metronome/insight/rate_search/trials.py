"""Some steps at each of a few rates, from the same weights with the same batches: which comes down furthest."""

import math
from dataclasses import dataclass

import numpy as np

from metronome.insight.rate_search.curve import rounded
from metronome.insight.rate_search.search import base_rates, put_rates
from metronome.insight.rate_search.trial import Trial
from metronome.training import Trainer

_APART = 3.0  # one rate from the next
_MOST = 9  # rates
_AT_FIRST = -2, -1, 0, 1  # of them, counted from the one to begin with
_LAST = 3  # of the steps, one in so many at the end is looked at


@dataclass(frozen=True)
class Tried:
    """A rate, and the mean loss of the last third of the steps made with it; infinite where it has run away."""

    rate: float
    loss: float


def try_rates(trainer: Trainer, first: float, steps: int) -> list[Tried]:
    """Try a rate, two below it and one above, each three times the other, and on until the best has worse ones on both
    sides. Two below, since a network may wait on a plateau at rates that are far too large, all alike.

    To be called as `search`, and like that it leaves nothing behind. It makes `steps` steps for each rate: four or five
    of them, seldom more, nine at most.

    Returns:
        What was tried, ascending.
    """
    bases, found = base_rates(trainer), dict[int, float]()
    with Trial(trainer) as trial:
        for place in _AT_FIRST:
            found[place] = _loss_of(trial, first * _APART**place, bases, steps)
        while len(found) < _MOST:
            best = min(found, key=lambda place: (found[place], place))
            missing = [place for place in (best + 1, best - 1) if place not in found]
            if math.isinf(found[best]):
                missing = [min(found) - 1]  # a smaller one may hold
            if not missing:
                break
            found[missing[0]] = _loss_of(trial, first * _APART ** missing[0], bases, steps)
    return [Tried(first * _APART**place, found[place]) for place in sorted(found)]


def _loss_of(trial: Trial, rate: float, bases: list[float], steps: int) -> float:
    trial.begin_again()
    losses: list[float] = []
    for _ in range(steps):
        put_rates(trial.trainer, rate, bases)
        losses.append(trial.step())
        if not math.isfinite(losses[-1]):
            return math.inf
    return float(np.mean(losses[-max(1, steps // _LAST) :]))


def best_rate(tried: list[Tried]) -> float | None:
    """The rate at the lowest point of a parabola, over the logarithm of the rate, through the best and its neighbours,
    of the logarithm of the loss; but none above the best, since a long training wants rather less than a short one.
    The best itself at an end. None if all have run away."""
    at = min(range(len(tried)), key=lambda i: tried[i].loss)
    best = tried[at]
    if not math.isfinite(best.loss):
        return None
    around = tried[at - 1 : at + 2] if at > 0 else []
    if len(around) < 3 or not all(0 < t.loss < math.inf for t in around):
        return rounded(best.rate)
    low, mid, high = (math.log(t.loss) for t in around)
    bend = low - 2 * mid + high
    shift = 0.0 if bend <= 0 else 0.5 * (low - high) / bend
    return rounded(best.rate * _APART ** max(-0.5, min(0.0, shift)))
