"""Steps, samples and seconds until a target: as intervals, since between two validations nothing is known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from metronome.report.events import Curve
from metronome.report.figures.axes import positions
from metronome.report.records import RunRecord
from metronome.report.ties import has_come_to, same


@dataclass(frozen=True)
class Hit:
    """A run has the target somewhere in (after, by]: `after` is at the last validation that does not have it, or 0, and
    `by` at the first that does, on each axis. `confirmed`: so many validations in a row have it as were asked for."""

    after: dict[str, float]
    by: dict[str, float]
    confirmed: bool


@dataclass(frozen=True)
class Reached:
    """What the runs of a group came to: the confirmed hits, of so many runs, and how many were not confirmed."""

    hits: list[Hit]
    runs: int
    unconfirmed: int = 0

    @property
    def by_all(self) -> bool:
        """Whether all have it. Only then a mean is one of the group, and not of those that were fast enough."""
        return self.runs > 0 and len(self.hits) == self.runs

    def interval(self, axis: str) -> tuple[float, float] | None:
        """The means over the runs of both ends; None unless all have it, and the axis is known for all."""
        if not self.by_all or not all(axis in hit.by for hit in self.hits):
            return None
        return fmean(hit.after[axis] for hit in self.hits), fmean(hit.by[axis] for hit in self.hits)

    def middle(self, axis: str) -> float | None:
        """The middle of the interval."""
        ends = self.interval(axis)
        return None if ends is None else fmean(ends)

    def middles(self, axis: str) -> list[float]:
        """The middle of each run's interval."""
        return [(hit.after[axis] + hit.by[axis]) / 2 for hit in self.hits if axis in hit.by]

    @property
    def count(self) -> str:
        """`3 of 3`, and how many more had it at the end, without being confirmed."""
        more = f" ({self.unconfirmed} more not confirmed)" if self.unconfirmed else ""
        return f"{len(self.hits)} of {self.runs}{more}"


def hit(run: RunRecord, metric: str, target: float, best_is_low: bool, confirm: int = 1) -> Hit | None:
    """Where a run comes to the target: at the first of so many validations in a row that have it; of a run that ends
    before they are so many, at the first of those at its end, not confirmed. None if it does not."""
    curve = run.curves.get(metric)
    if curve is None:
        return run.hits.get(target)
    there = np.array([has_come_to(float(value), target, best_is_low) for value in curve.values])
    begin = 0
    for i in range(len(there) + 1):
        if i == len(there) or not there[i]:
            if i - begin >= confirm or (i == len(there) and i > begin):
                return _hit(run, curve, begin, confirmed=i - begin >= confirm)
            begin = i + 1
        elif i - begin + 1 >= confirm:
            return _hit(run, curve, begin, confirmed=True)
    return None


def reached(runs: Iterable[RunRecord], metric: str, target: float, best_is_low: bool, confirm: int = 1) -> Reached:
    """What these runs came to."""
    found = [hit(run, metric, target, best_is_low, confirm) for run in runs]
    hits = [one for one in found if one is not None]
    confirmed = [one for one in hits if one.confirmed]
    return Reached(confirmed, len(found), len(hits) - len(confirmed))


def grids_differ(runs: Sequence[RunRecord], metric: str) -> str | None:
    """A sentence where runs were validated at different steps, so that their times are known to different precision."""
    curves = [run.curves[metric].steps for run in runs if metric in run.curves]
    if len(curves) < 2:
        return None
    end = min(int(steps[-1]) for steps in curves)
    grids = {tuple(int(step) for step in steps if step <= end) for steps in curves}
    if len(grids) == 1:
        return None
    gaps = sorted(float(np.median(np.diff(steps, prepend=0))) for steps in curves)
    span = f"{gaps[0]:,.6g}" if same(gaps[0], gaps[-1]) else f"{gaps[0]:,.6g} to {gaps[-1]:,.6g}"
    return (
        f"The runs were validated at different steps (every {span}), so they come to a target somewhere in intervals "
        "of different widths; compare these, and not their ends. One grid for all: trainer.val_check_interval=10 "
        "trainer.check_val_every_n_epoch=null."
    )


def _hit(run: RunRecord, curve: Curve, i: int, confirmed: bool) -> Hit:
    xs = positions(run, curve)
    before = {axis: float(x[i - 1]) if i else 0.0 for axis, x in xs.items()}
    return Hit(before, {axis: float(x[i]) for axis, x in xs.items()}, confirmed)
