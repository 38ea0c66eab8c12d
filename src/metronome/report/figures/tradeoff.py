"""The figure of time against work: steps, samples and seconds until a target is reached."""

import math
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from metronome.report.differences import Group
from metronome.report.figures.axes import positions
from metronome.report.figures.roles import roles_of
from metronome.report.figures.style import Look, Picture, figure, headline, legend, plain, png, scale
from metronome.report.records import RunRecord
from metronome.report.summary import Summary

PART = 0.75  # of the groups reach the target


@dataclass(frozen=True)
class Reached:
    """Where a run first has the target, on each axis. `at_once`: it has it at the first point of the curve already, so
    that it may have been earlier."""

    at: dict[str, float]
    at_once: bool


def target_of(bests: list[float], best_is_low: bool) -> float:
    """The value that three quarters of the groups reach, and no better one.

    >>> target_of([0.5, 0.1, 0.3, 0.2], best_is_low=True)
    0.3
    """
    ordered = sorted(bests, reverse=not best_is_low)
    return ordered[math.ceil(PART * len(ordered)) - 1]


def reached(run: RunRecord, tag: str, target: float, best_is_low: bool) -> Reached | None:
    """Where a curve first comes to the target: on the straight line between the points before and behind."""
    curve = run.curves.get(tag)
    if curve is None:
        return None
    sign = 1.0 if best_is_low else -1.0
    values = sign * curve.values
    there = np.flatnonzero(values <= sign * target)
    if not len(there):
        return None
    i = int(there[0])
    xs = positions(run, curve)
    if i == 0 or not np.isfinite(values[i - 1]):
        return Reached({axis: float(x[i]) for axis, x in xs.items()}, at_once=i == 0)
    part = (values[i - 1] - sign * target) / (values[i - 1] - values[i])
    return Reached({axis: float(x[i - 1] + part * (x[i] - x[i - 1])) for axis, x in xs.items()}, at_once=False)


def tradeoff_picture(summary: Summary) -> Picture | str:
    """Samples and seconds against steps until the target; a sentence where there is nothing to compare."""
    tag, best_is_low = summary.monitor, summary.best_is_low
    if tag is None:
        return "Nothing was monitored, so no target can be set."
    bests = {
        id(group): best for group in summary.differences.groups if (best := _best(group, tag, best_is_low)) is not None
    }
    if len(bests) < 2:
        return f"Fewer than two groups have a curve of {tag}, so there is nothing to compare."
    target = target_of(list(bests.values()), best_is_low)
    roles = roles_of(summary)
    points: list[tuple[Group, Look, list[Reached]]] = []
    for group, style in roles.looks:
        found = [hit for run in group.measured if (hit := reached(run, tag, target, best_is_low))]
        if found and (len(found) * 2 >= len(group.measured)):
            points.append((group, style, found))
    if len(points) < 2:
        return f"Fewer than two groups reach {tag} {plain(target)}, so there is nothing to compare."
    labels = [group.label for group, _, _ in points]
    made, panels = figure(1, 2, 4.2, labels)
    for panel, axis in zip(panels, ("samples", "seconds"), strict=True):
        xs: list[float] = []
        ys: list[float] = []
        for _, style, hits in points:
            known = [hit for hit in hits if axis in hit.at]
            if not known:
                continue
            x, y = [hit.at["steps"] for hit in known], [hit.at[axis] for hit in known]
            fill = "none" if all(hit.at_once for hit in known) else style.colour
            if len(known) > 1:
                panel.plot(x, y, style.marker, color=style.colour, markersize=3.5, alpha=0.5, markeredgewidth=0)
            panel.plot(fmean(x), fmean(y), style.marker, markersize=9, markerfacecolor=fill, color=style.colour)
            xs += x
            ys += y
        scale(panel, "x", xs, 8)
        scale(panel, "y", ys, 8)
        panel.margins(0.12)
        panel.set_xlabel("steps (parameter updates) to the target")
        panel.set_ylabel(f"{axis} to the target")
    handles = [panels[0].plot([], [], s.marker, color=s.colour, markersize=8)[0] for _, s, _ in points]
    legend(made, handles, labels)
    sign = "≤" if best_is_low else "≥"
    title = f"Until {tag} {sign} {plain(float(f'{target:.4g}'))}{_least(points)}"
    headline(made, title)
    drawn = {id(group) for group, _, _ in points}
    missing = [group.label for group, _ in roles.looks if id(group) not in drawn]
    notes = [
        f"The target is the best {tag} that three quarters of the {len(bests)} groups reach, by the median over seeds; "
        "where a run reaches it is taken on the straight line between two validations.",
    ]
    if "data.batch_size" in summary.differences.keys:
        notes.append(
            "With larger batches the steps S fall and the samples E grow, by McCandlish et al. 2018 (arXiv 1812.06162) "
            "about as (S/Smin − 1)(E/Emin − 1) = 1; these are the measured points."
        )
    if any(hit.at_once for _, _, hits in points for hit in hits):
        notes.append("Hollow: reached at the first validation already, so perhaps earlier.")
    if missing:
        notes.append(f"Not reached by: {'; '.join(missing)}.")
    notes.append(roles.why)
    alt = f"{title} Each group of runs as a point: " + "; ".join(
        f"{group.label}: {plain(round(fmean([hit.at['steps'] for hit in hits])))} steps" for group, _, hits in points
    )
    return Picture("tradeoff", title, " ".join(filter(None, notes)), alt, png(made))


def _least(points: list[tuple[Group, Look, list[Reached]]]) -> str:
    """Which groups need the fewest steps and samples."""
    least: dict[str, str] = {}
    for axis in ("steps", "samples"):
        known = [([hit.at[axis] for hit in hits if axis in hit.at], group.label) for group, _, hits in points]
        if means := [(fmean(at), label) for at, label in known if at]:
            least[axis] = min(means)[1]
    words = ", ".join(f"fewest {axis} with {label}" for axis, label in least.items())
    return f": {words}" if words and len(words) < 90 else ""


def _best(group: Group, tag: str, best_is_low: bool) -> float | None:
    """The median over seeds of the best value."""
    curves = [run.curves[tag].values for run in group.measured if tag in run.curves]
    finite = [values[np.isfinite(values)] for values in curves]
    bests = [float(values.min() if best_is_low else values.max()) for values in finite if len(values)]
    return median(bests) if bests else None
