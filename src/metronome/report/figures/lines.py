"""Curves as they are drawn: means over seeds, fewer points, running means."""

from dataclasses import dataclass

import numpy as np

from metronome.report.events import Curve
from metronome.report.figures.axes import positions
from metronome.report.records import RunRecord

MOST_POINTS = 400  # of a curve; more are averaged in buckets
_SMOOTHED_FROM = 60  # points of a train/ curve, from which on its running mean is drawn over it


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn: x by axis, the value, and the least and the largest over seeds where there are some."""

    xs: dict[str, np.ndarray]
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def line_of(runs: list[RunRecord], curves: list[Curve]) -> Line:
    """The mean over seeds at the steps that all have. Where they share none, the first one."""
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    if len(curves) == 1 or len(steps) < 2:
        return thin(Line(positions(runs[0], curves[0]), curves[0].values))
    rows = [np.searchsorted(curve.steps, steps) for curve in curves]
    values = np.stack([curve.values[row] for curve, row in zip(curves, rows, strict=True)])
    every = [positions(run, curve) for run, curve in zip(runs, curves, strict=True)]
    axes = set.intersection(*(set(xs) for xs in every))
    xs = {axis: np.mean([x[axis][row] for x, row in zip(every, rows, strict=True)], axis=0) for axis in axes}
    return thin(Line(xs, values.mean(0), values.min(0), values.max(0)))


def thin(line: Line, most: int = MOST_POINTS) -> Line:
    """At most so many points, each the mean over a bucket of neighbours."""
    count = len(line.values)
    if count <= most:
        return line
    edges = np.linspace(0, count, most + 1).astype(int)[:-1]
    sizes = np.diff(np.append(edges, count))

    def mean(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.add.reduceat(array, edges) / sizes

    xs = {axis: np.add.reduceat(x, edges) / sizes for axis, x in line.xs.items()}
    return Line(xs, np.add.reduceat(line.values, edges) / sizes, mean(line.low), mean(line.high))


def running_mean(values: np.ndarray, most: int) -> np.ndarray:
    """The mean over a window of at most `most` values around each.

    The window is as wide to one side as to the other, so it narrows towards the ends, where the first and the last
    value are as they were; and it is at most half as wide as its middle is far from the beginning. So a curve that
    falls fast at first, and is drawn over a logarithm of the steps, begins where it was logged; and a straight line
    stays what it is.
    """
    count = len(values)
    i, half = np.arange(count), _half_windows(count, most)
    return np.array([values[k - h : k + h + 1].mean() for k, h in zip(i, half, strict=True)])


def _half_windows(count: int, most: int) -> np.ndarray:
    i = np.arange(count)
    return np.minimum(np.minimum(i // 2, count - 1 - i), max(most - 1, 0) // 2)


def smoothed(values: np.ndarray) -> np.ndarray:
    """The running mean of a curve with many points; another one as it is."""
    if len(values) < _SMOOTHED_FROM or not np.isfinite(values).all():
        return values
    return running_mean(values, len(values) // 10)


def around(values: np.ndarray, percentile: float) -> np.ndarray:
    """A percentile of the values in the window whose mean `smoothed` takes."""
    i, half = np.arange(len(values)), _half_windows(len(values), len(values) // 10)
    return np.array([np.percentile(values[k - h : k + h + 1], percentile) for k, h in zip(i, half, strict=True)])
