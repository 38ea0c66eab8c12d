"""Trainings that fail at random, simulated failure by failure: what the formulas of `units.paper.saves` are held to."""

from dataclasses import dataclass
from math import sqrt

import numpy as np

from metronome.units.paper.saves import Saving

_RUNS, _FEWEST_FAILURES, _MOST_FAILURES, _FEWEST_SAVES = 400, 20, 300, 50


@dataclass(frozen=True)
class Simulated:
    """Attributes:
    goodput: the mean over all runs of the part of the time that went into training that was kept.
    error: the standard error of that mean.
    runs: how many.
    work: seconds of training in each.
    failures: in all of them.
    """

    goodput: float
    error: float
    runs: int
    work: float
    failures: int


def simulate(saving: Saving, every: float, work: float, runs: int = _RUNS, seed: int = 0) -> Simulated:
    """Make `work` seconds of training with a save after each `every` of them, many times.

    Nothing here knows the formula: failures are drawn one after the other; from each a run restarts, goes on from the
    last file that was whole when it came, and trains and saves until the next.

    Args:
        work: as much is made of it as has 50 saves and 20 failures, so that how it ends is no matter, and no more than
            has 300 failures, so that it takes no time.
    """
    mean = saving.between_failures
    least = max(_FEWEST_SAVES * every, _FEWEST_FAILURES * mean)
    work = min(max(work, least), max(_MOST_FAILURES * mean, least))
    draw, period = np.random.default_rng(seed), every + saving.held
    took, kept, restart = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    is_on, failures = np.ones(runs, dtype=bool), 0
    while is_on.any():
        left = work - kept
        to_the_end = restart + left + saving.held * np.maximum(np.ceil(left / every) - 1, 0)  # nothing is saved there
        until = draw.exponential(mean, runs)
        ends = is_on & (until >= to_the_end)
        fails = is_on & ~ends
        took[ends] += to_the_end[ends]
        took[fails] += until[fails]
        trained = np.maximum(until - restart - saving.written, 0)
        kept[fails] += every * np.floor(trained / period)[fails]
        restart[:] = saving.restart
        is_on, failures = fails, failures + int(fails.sum())
    parts = work / took
    # Of all time together: a mean of ratios would not be what a long run comes to.
    return Simulated(work * runs / took.sum(), float(parts.std(ddof=1)) / sqrt(runs), runs, work, failures)
