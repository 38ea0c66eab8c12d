"""Figures of curves: each metric against steps, epochs, samples and seconds."""

import math
from collections import Counter
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from metronome.report.differences import Group
from metronome.report.events import Curve
from metronome.report.figures.axes import AXES
from metronome.report.figures.lines import MOST_POINTS, Line, line_of, smoothed
from metronome.report.figures.roles import Roles, roles_of
from metronome.report.figures.style import (
    OTHERS,
    Look,
    Picture,
    figure,
    file_name,
    headline,
    legend,
    plain,
    png,
    scale,
)
from metronome.report.records import RunRecord, is_rate
from metronome.report.summary import Summary, best_point, in_words
from metronome.report.ties import with_whom

BATCH_SIZE = "batch size"  # drawn like a metric
_NO_CURVE = ("epoch", "hp_metric")
_LOG_SPAN = 10**1.5


def curve_pictures(summary: Summary) -> list[Picture]:
    """A figure for every metric that most runs with curves have, the loss first; the learning rate and a batch size
    that changes after them."""
    roles = roles_of(summary)
    with_curves = [run for run in summary.runs if run.curves]
    counts = Counter(tag for run in with_curves for tag, curve in run.curves.items() if len(curve.steps) > 1)
    tags = [tag for tag, count in counts.items() if count * 2 > len(with_curves) and tag not in _NO_CURVE]
    tags = [tag for tag in tags if not tag.startswith("test/")]
    tags.sort(key=lambda tag: (is_rate(tag), _order(tag)))
    pictures = [
        _picture(summary, roles, tag, {id(run): run.curves[tag] for run in with_curves if tag in run.curves})
        for tag in tags
    ]
    batches = {id(run): batch_sizes(run) for run in with_curves}
    if any(len(set(curve.values)) > 1 for curve in batches.values() if curve is not None):
        known = {run: curve for run, curve in batches.items() if curve is not None}
        pictures.append(_picture(summary, roles, BATCH_SIZE, known))
    return pictures


def batch_sizes(run: RunRecord) -> Curve | None:
    """The samples in the batch of each step that something was logged at."""
    if run.step_table is None:
        return None
    logged = max(run.curves.values(), key=lambda curve: len(curve.steps))
    return Curve(logged.steps, run.step_table.batch_size_at(logged.steps).astype(float), logged.seconds)


def _picture(summary: Summary, roles: Roles, tag: str, curves: dict[int, Curve]) -> Picture:
    """One metric on four axes."""
    told_apart = [(group, look, _lines(group, curves)) for group, look in roles.looks]
    told_apart = [(group, look, lines) for group, look, lines in told_apart if lines]
    others = [lines for group in roles.others if (lines := _lines(group, curves))]
    grey = [line for lines in others for line in lines]
    strong = [line for _, _, lines in told_apart for line in lines]
    smooth = tag.startswith("train/") and any(smoothed(line.values) is not line.values for line in strong)

    handles = [Line2D([], [], color=look.colour, linestyle=look.line, linewidth=2) for _, look, _ in told_apart]
    labels = [group.label for group, _, _ in told_apart]
    if grey:
        handles.append(Line2D([], [], color=OTHERS))
        labels.append(f"{len(others):,} others")
    made, panels = figure(2, 2, 6.2, labels, sharey=True)
    for panel, axis in zip(panels, AXES, strict=True):
        segments = [np.column_stack([line.xs[axis], line.values]) for line in grey if axis in line.xs]
        panel.add_collection(LineCollection(segments, colors=OTHERS, linewidths=0.7, zorder=1))
        for group, look, lines in told_apart:
            for line in lines:
                _draw(panel, axis, line, look, smooth)
            if axis == "epochs" and tag == "val/loss":
                _mark_best(panel, group, look)
        _scale_x(panel, axis, strong + grey)
    top = _scale_y(panels[0], strong + grey, smooth)
    for panel in panels[::2]:
        panel.set_ylabel("samples in a batch" if tag == BATCH_SIZE else tag)
    legend(made, handles, labels)
    title = _title(summary, tag, told_apart, _is_low(summary, tag))
    headline(made, title)

    notes = {
        roles.why: True,
        "Lines are means over seeds, bands go from the least to the largest.": any(ln.low is not None for ln in strong),
        "Pale: as logged; strong: a running mean over a tenth of the run.": smooth,
        f"Curves of more than {MOST_POINTS} points are averaged to {MOST_POINTS}.": any(
            len(curve.steps) > MOST_POINTS for curve in curves.values()
        ),
        "Large markers: the least val/loss of each run, over epochs.": tag == "val/loss",
        f"Values above {plain(top)} are not shown.": math.isfinite(top),
    }
    caption = " ".join(note for note, applies in notes.items() if note and applies)
    alt = f"{title}. Four panels show {tag} against steps, epochs, samples and seconds for: {'; '.join(labels)}."
    return Picture(file_name("curves", tag), title, caption, alt, png(made))


def _scale_x(panel: Axes, axis: str, lines: list[Line]) -> None:
    """Logarithmic where runs end at very different places, so that the short ones can be seen too."""
    ends = [float(line.xs[axis][-1]) for line in lines if axis in line.xs]
    if not ends:
        panel.text(0.5, 0.5, "not known: the runs left no plan", ha="center", transform=panel.transAxes)
    scale(panel, "x", [end for end in ends if end > 0], 12)
    panel.autoscale_view()
    if panel.get_xscale() == "linear":
        panel.set_xlim(left=0)
    panel.set_xlabel(AXES[axis])


def _scale_y(panel: Axes, lines: list[Line], smooth: bool) -> float:
    """Logarithmic where values span much. Returns what is cut off above, infinity if nothing is.

    Runs that diverge would press all others flat: where values go far beyond what most curves have at most, the axis
    ends well above that. A noisy curve may go below the axis with single low values.
    """
    most = [float(np.nanmax(line.values[np.isfinite(line.values)])) for line in lines if np.isfinite(line.values).any()]
    if not most:
        return math.inf
    usual = median(most)
    top = 10 * usual if usual > 0 and max(most) > 1000 * usual else math.inf
    least = min(float(np.min(line.values[np.isfinite(line.values)], initial=math.inf)) for line in lines)
    scale(panel, "y", [least, min(max(most), top)], _LOG_SPAN)
    if top < math.inf:
        panel.set_ylim(top=top)
    if smooth and panel.get_yscale() == "log":
        strong = [smoothed(line.values) for line in lines]
        bottom = min(float(np.min(values[np.isfinite(values)], initial=math.inf)) for values in strong)
        panel.set_ylim(bottom=max(bottom / 4, panel.get_ylim()[0]))
    return top


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
    x = line.xs[axis]
    if line.low is not None and line.high is not None:
        panel.fill_between(x, line.low, line.high, color=style.colour, alpha=0.14, linewidth=0, zorder=2)
    values = line.values
    if smooth and (smooth_values := smoothed(values)) is not values:
        panel.plot(x, values, color=style.colour, linewidth=0.7, alpha=0.3, zorder=2)
        values = smooth_values
    few = style.marker if len(values) <= 12 else None
    panel.plot(x, values, color=style.colour, linestyle=style.line, linewidth=1.7, marker=few, markersize=3.5, zorder=3)


def _mark_best(panel: Axes, group: Group, style: Look) -> None:
    for run in group.measured:
        point = best_point(run)
        if point is not None and run.step_table is not None and "val/loss" in run.curves:
            epoch = float(run.step_table.epochs_at(point[0]))
            panel.plot(
                epoch, point[1], style.marker, color=style.colour, markersize=7, markeredgecolor="white", zorder=4
            )


def _title(summary: Summary, tag: str, told_apart: list[tuple[Group, Look, list[Line]]], is_low: bool | None) -> str:
    """Which group comes farthest, where that can be said; noise says it of the training."""
    groups = [group for group, _, _ in told_apart]
    best = None if is_low is None or tag.startswith("train/") else summary.best_groups(groups, tag, is_low)
    if best is None:
        return f"{tag} against steps, epochs, samples and seconds"
    values, names, every = best
    return f"{tag}: {'lowest' if is_low else 'highest'} {with_whom(names, every)} ({in_words(values)})"


def _is_low(summary: Summary, tag: str) -> bool | None:
    """Whether low values of a metric are good; None if its name does not tell."""
    if tag == summary.monitor:
        return summary.best_is_low
    if any(word in tag.lower() for word in ("loss", "err", "mae", "mse", "perplexity")):
        return True
    return False if any(word in tag.lower() for word in ("acc", "auc", "f1", "precision", "recall", "iou")) else None


def _order(tag: str) -> tuple[int, str]:
    first = ("train/loss", "val/loss", "val/acc", "train/loss_epoch", "train/acc")
    return (first.index(tag), "") if tag in first else (len(first), tag)
