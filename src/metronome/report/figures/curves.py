"""Figures of curves: each metric against steps, and against samples, epochs and seconds where these show something
else."""

import math
from collections import Counter
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from metronome.report.differences import Group
from metronome.report.events import Curve
from metronome.report.figures.axes import AXES, axes_that_differ, positions
from metronome.report.figures.lines import MOST_POINTS, Line, around, line_of, smoothed
from metronome.report.figures.roles import Key, Roles, roles_of
from metronome.report.figures.style import OTHERS, Look, Medium, Picture, file_name, picture, plain, scale
from metronome.report.records import RunRecord, is_rate
from metronome.report.summary import Summary, best_point, in_words
from metronome.report.ties import same, with_whom
from metronome.units import direction_of

BATCH_SIZE = "batch size"  # drawn like a metric
_NO_CURVE = ("epoch", "hp_metric")
_MANY = 100  # points of a line, from where on it is a thin one
_X_SPAN, _ENDS_SPAN = 30, 5  # of steps, and of where runs end, from which on their axis is logarithmic
_Y_SPAN = {True: 4, False: 10**1.5}  # of the values of a loss, and of anything else


def curve_pictures(summary: Summary) -> list[Picture]:
    """A figure for every metric that most runs with curves have, the loss first; the learning rate and a batch size
    after them where they change. What is logged at steps is not drawn again as the mean of each epoch."""
    roles = roles_of(summary)
    with_curves = [run for run in summary.runs if run.curves]
    counts = Counter(tag for run in with_curves for tag, curve in run.curves.items() if len(curve.steps) > 1)
    tags = [tag for tag, count in counts.items() if count * 2 > len(with_curves) and tag not in _NO_CURVE]
    tags = [tag for tag in tags if not tag.startswith("test/") and tag.removesuffix("_epoch") not in set(tags) - {tag}]
    tags.sort(key=lambda tag: (is_rate(tag), _order(tag)))
    pictures: list[Picture] = []
    for tag in tags:
        curves = {id(run): run.curves[tag] for run in with_curves if tag in run.curves}
        if not is_rate(tag) or any(_changes(curve) for curve in curves.values()):
            pictures.append(_picture(summary, roles, tag, curves))
    batches = {id(run): batch_sizes(run) for run in with_curves}
    if any(_changes(curve) for curve in batches.values() if curve is not None):
        known = {run: curve for run, curve in batches.items() if curve is not None}
        pictures.append(_picture(summary, roles, BATCH_SIZE, known))
    return pictures


def batch_sizes(run: RunRecord) -> Curve | None:
    """The samples in the batch of each step that something was logged at."""
    if run.step_table is None:
        return None
    logged = max(run.curves.values(), key=lambda curve: len(curve.steps))
    return Curve(logged.steps, run.step_table.batch_size_at(logged.steps).astype(float), logged.seconds)


def _changes(curve: Curve) -> bool:
    return not all(same(float(value), float(curve.values[0])) for value in curve.values)


def _picture(summary: Summary, roles: Roles, tag: str, curves: dict[int, Curve]) -> Picture:
    """One metric, a panel for each axis that shows something else."""
    told_apart = [(group, look, _lines(group, curves)) for group, look in roles.looks]
    told_apart = [(group, look, lines) for group, look, lines in told_apart if lines]
    others = [lines for group in roles.others if (lines := _lines(group, curves))]
    grey = [line for lines in others for line in lines]
    strong = [line for _, _, lines in told_apart for line in lines]
    smooth = tag.startswith("train/") and any(smoothed(line.values) is not line.values for line in strong)
    axes = _axes(summary, curves)
    labels = [group.label for group, _, _ in told_apart] + ([f"{len(others):,} others"] if others else [])
    key = Key(roles, [(group, look) for group, look, _ in told_apart], len(others))
    is_loss = _is_low(summary, tag) is True
    top, _ = _limits(strong + grey)

    def draw(medium: Medium) -> Figure:
        rows, columns = {1: (1, 1), 2: (1, 2), 3: (1, 3)}.get(len(axes), (2, 2))
        made, panels = key.figure(rows, columns, 3.5 * rows, medium, sharey=True)
        for panel, axis in zip(panels, axes, strict=True):
            segments = [np.column_stack([line.xs[axis], line.values]) for line in grey if axis in line.xs]
            panel.add_collection(LineCollection(segments, colors=OTHERS, linewidths=0.7, zorder=1))
            for group, look, lines in told_apart:
                for line in lines:
                    _draw(panel, axis, line, look, smooth)
                if tag == "val/loss":
                    _mark_best(panel, axis, group, look)
            _scale_x(panel, axis, strong + grey)
        _scale_y(panels[0], strong + grey, smooth, is_loss)
        for panel in panels if medium.columns == 1 else panels[::columns]:
            panel.set_ylabel("samples in a batch" if tag == BATCH_SIZE else tag)
        key.draw(made, panels, medium)
        return made

    left_out = [axis for axis in ("samples", "epochs") if axis not in axes]
    notes = {
        roles.why: True,
        "Lines are means over seeds, bands go from the least to the largest.": any(ln.low is not None for ln in strong)
        and not smooth,
        "Lines are means over seeds and over a tenth of the run; bands go from the 10th percentile of the lowest seed "
        "to the 90th of the highest.": smooth,
        f"Curves of more than {MOST_POINTS} points are averaged to {MOST_POINTS}.": any(
            len(curve.steps) > MOST_POINTS for curve in curves.values()
        ),
        "Markers: the least val/loss of each run.": tag == "val/loss",
        f"Against {' and '.join(left_out)} it looks the same: they differ by a factor that all groups share.": bool(
            left_out and len(told_apart) > 1
        ),
        f"Values above {plain(top)} are not shown.": math.isfinite(top),
    }
    caption = " ".join(note for note, applies in notes.items() if note and applies)
    title = _title(summary, tag, told_apart, axes)
    alt = f"{title}. {tag} against {_in_a_row(axes)} for: {'; '.join(labels)}."
    return picture(file_name("curves", tag), title, caption, alt, draw)


def _axes(summary: Summary, curves: dict[int, Curve]) -> list[str]:
    """What to draw it against: steps alone, if nothing is known of the runs."""
    groups = [
        [positions(run, curves[id(run)]) for run in group.measured if id(run) in curves and len(curves[id(run)].steps)]
        for group in summary.differences.groups
    ]
    return axes_that_differ([runs for runs in groups if runs]) or ["steps"]


def _in_a_row(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _scale_x(panel: Axes, axis: str, lines: list[Line]) -> None:
    """Logarithmic where runs are long or end at very different places, so that their beginnings and the short ones can
    be seen too."""
    xs = [line.xs[axis][line.xs[axis] > 0] for line in lines if axis in line.xs]
    ends, starts = ([float(x[i]) for x in xs if len(x)] for i in (-1, 0))
    is_long = bool(ends) and max(ends) > _X_SPAN * min(starts)
    scale(panel, "x", [*ends, *starts] if is_long else ends, _X_SPAN if is_long else _ENDS_SPAN)
    panel.autoscale_view()
    if panel.get_xscale() == "linear":
        panel.set_xlim(left=0)
    panel.set_xlabel(AXES[axis])


def _limits(lines: list[Line]) -> tuple[float, float]:
    """Where the values are cut off above, infinity if nothing is, and the largest.

    Runs that diverge would press all others flat: where values go far beyond what most curves have at most, the axis
    ends well above that. A noisy curve may go below the axis with single low values.
    """
    most = [float(np.nanmax(line.values[np.isfinite(line.values)])) for line in lines if np.isfinite(line.values).any()]
    if not most:
        return math.inf, math.nan
    usual = median(most)
    return 10 * usual if usual > 0 and max(most) > 1000 * usual else math.inf, max(most)


def _scale_y(panel: Axes, lines: list[Line], smooth: bool, is_loss: bool) -> None:
    """Logarithmic where values span much."""
    top, most = _limits(lines)
    if math.isnan(most):
        return
    values = [smoothed(line.values) if smooth else line.values for line in lines]
    least = min(float(np.min(of[np.isfinite(of)], initial=math.inf)) for of in values)
    scale(panel, "y", [least, min(most, top)], _Y_SPAN[is_loss])
    if top < math.inf:
        panel.set_ylim(top=top)
    if panel.get_yscale() == "log":
        panel.set_ylim(bottom=max(least / 1.5, panel.get_ylim()[0]))


def _lines(group: Group, curves: dict[int, Curve]) -> list[Line]:
    """The mean over the runs that stand for the group, and the others of it one by one."""
    having = [run for run in group.runs if id(run) in curves]
    standing = [run for run in group.measured if id(run) in curves]
    alone = [run for run in having if run not in standing]
    lines = [line_of(standing, [curves[id(run)] for run in standing])] if standing else []
    return lines + [line_of([run], [curves[id(run)]]) for run in alone]


def _draw(panel: Axes, axis: str, line: Line, style: Look, smooth: bool) -> None:
    if axis not in line.xs:
        return
    x, values, low, high = line.xs[axis], line.values, line.low, line.high
    if smooth and (smooth_values := smoothed(values)) is not values:
        low, high = around(values if low is None else low, 10), around(values if high is None else high, 90)
        values = smooth_values
    if low is not None and high is not None:
        panel.fill_between(x, low, high, color=style.colour, alpha=0.14, linewidth=0, zorder=2)
    few = style.marker if len(values) <= 12 else None
    width = 1.6 if len(values) <= _MANY else 1.1
    looks = {"color": style.colour, "linestyle": style.line, "linewidth": width, "marker": few, "markersize": 3.5}
    panel.plot(x, values, **looks, zorder=3)


def _mark_best(panel: Axes, axis: str, group: Group, style: Look) -> None:
    for run in group.measured:
        point = best_point(run)
        if point is None or "val/loss" not in run.curves:
            continue
        at = positions(run, Curve(np.array([point[0]]), np.array([point[1]]), np.array([math.nan]))).get(axis)
        if at is not None and math.isfinite(at[0]):
            looks = {"color": style.colour, "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6}
            panel.plot(at, point[1], style.marker, **looks, zorder=4)


def _title(summary: Summary, tag: str, told_apart: list[tuple[Group, Look, list[Line]]], axes: list[str]) -> str:
    """Which group comes farthest, where that can be said; noise says it of the training."""
    groups, is_low = [group for group, _, _ in told_apart], _is_low(summary, tag)
    best = None if is_low is None or tag.startswith("train/") else summary.best_groups(groups, tag, is_low)
    if best is None:
        return f"{tag} against {_in_a_row(axes)}"
    values, names, every = best
    return f"{tag}: {'lowest' if is_low else 'highest'} {with_whom(names, every)} ({in_words(values)})"


def _is_low(summary: Summary, tag: str) -> bool | None:
    """Whether low values of a metric are good; None if its name does not tell."""
    if tag == summary.monitor:
        return summary.best_is_low
    mode = direction_of(tag)
    return None if mode is None else mode == "min"


def _order(tag: str) -> tuple[int, str]:
    first = ("train/loss", "val/loss", "val/acc", "train/loss_epoch", "train/acc")
    return (first.index(tag), "") if tag in first else (len(first), tag)
