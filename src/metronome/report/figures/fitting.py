"""A figure of training against validation: from under-fitting to over-fitting."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metronome.report.differences import Group
from metronome.report.events import Curve
from metronome.report.figures.axes import AXES, positions
from metronome.report.figures.lines import Line, line_of, smoothed
from metronome.report.figures.roles import roles_of
from metronome.report.figures.style import Medium, Picture, figure, legend, look, picture, plain, scale
from metronome.report.summary import Summary, best_point, in_words

MOST_PANELS = 6
TRAINED, VALIDATED = ("train/loss_epoch", "train/loss"), "val/loss"
_LONGEST = 34  # letters over a panel
_FEW = 4  # points of a curve; with fewer the mean of each epoch says nothing of its course
_LONG = 30  # of steps or epochs, from which on their axis is logarithmic
_SPAN = 4  # of the losses, from which on their axis is logarithmic


def fitting_picture(summary: Summary) -> Picture | None:
    """The loss of training and of validation on one axis, a panel for each group; None where none has both."""
    roles = roles_of(summary)
    having = [(group, curves) for group, _ in roles.looks if (curves := both(group)) is not None]
    if not having:
        return None
    count = min(len(having), MOST_PANELS)
    shown = [having[round(i * (len(having) - 1) / max(count - 1, 1))] for i in range(count)]
    axis = "epochs" if all("epochs" in line.xs for _, lines in shown for line in lines) else "steps"
    labels = ["training", "validation", "least validation loss of each run"]

    def draw(medium: Medium) -> Figure:
        columns = min(3, len(shown))
        rows = -(-len(shown) // columns)
        height = 3.4 if len(shown) == 1 else 2.7 * rows
        made, panels = figure(rows, columns, height, labels, medium, count=len(shown), sharey=True)
        xs = [float(x) for _, lines in shown for line in lines for x in (line.xs[axis][0], line.xs[axis][-1])]
        for i, (panel, (group, lines)) in enumerate(zip(panels, shown, strict=True)):
            _draw(panel, axis, group, lines)
            label = group.label if len(group.label) <= _LONGEST else group.label[: _LONGEST - 1] + "…"
            best = _least(group, axis)
            panel.set_title(f"{label}\n{best}" if len(having) > 1 else best, fontsize=9.5)
            scale(panel, "x", xs, _LONG)
            if panel.get_xscale() == "linear":
                panel.set_xlim(left=0)
            panel.set_xlabel(AXES[axis])
            if medium.columns == 1 or i % columns == 0:
                panel.set_ylabel("loss")
        values = [float(value) for group, lines in shown for line in _as_drawn(group, lines) for value in line]
        values = [value for value in values if value > 0 and np.isfinite(value)]
        scale(panels[0], "y", values, _SPAN)
        if panels[0].get_yscale() == "log":
            panels[0].set_ylim(0.7 * min(values), 1.4 * max(values))
        handles = [Line2D([], [], color=look(i).colour, linestyle=look(i).line, linewidth=2) for i in range(2)]
        handles.append(Line2D([], [], color="black", linestyle="none", marker="v", markersize=6))
        legend(made, handles, labels, medium)
        return made

    title = "Training loss and validation loss"
    left_out = len(having) - len(shown)
    by_epoch = {_of_epochs(group) for group, _ in shown}
    notes = [
        "Lines are means over seeds, bands go from the least to the largest.",
        "Training: the mean over each epoch, while its weights changed." if True in by_epoch else "",
        "Training of a group with few epochs: the running mean of the loss as it was logged."
        if False in by_epoch
        else "",
        f"{left_out} more group{'s are' if left_out > 1 else ' is'} not shown." if left_out else "",
    ]
    alt = f"{title}. Panels of training and validation loss against {axis}: " + "; ".join(g.label for g, _ in shown)
    return picture("fitting", title, " ".join(filter(None, notes)), alt, draw)


def both(group: Group) -> list[Line] | None:
    """The loss in training and in validation of a group, each as the mean over its seeds."""
    for tag in TRAINED if _of_epochs(group) else TRAINED[::-1]:
        runs = [run for run in group.measured if tag in run.curves and VALIDATED in run.curves]
        runs = [run for run in runs if len(run.curves[VALIDATED].steps) > 1]
        if runs:
            return [line_of(runs, [run.curves[name] for run in runs]) for name in (tag, VALIDATED)]
    return None


def _of_epochs(group: Group) -> bool:
    """Whether its loss is shown as the means of its epochs: where these are several, or nothing else was logged."""
    means, logged = ([len(run.curves[tag].steps) for run in group.measured if tag in run.curves] for tag in TRAINED)
    return bool(means) and (min(means) >= _FEW or not logged or min(logged) < _FEW)


def _as_drawn(group: Group, lines: list[Line]) -> list[np.ndarray]:
    trained, validated = (line.values for line in lines)
    return [trained if _of_epochs(group) else smoothed(trained), validated]


def _draw(panel: Axes, axis: str, group: Group, lines: list[Line]) -> None:
    for i, (line, values) in enumerate(zip(lines, _as_drawn(group, lines), strict=True)):
        x = line.xs[axis]
        if line.low is not None and line.high is not None:
            panel.fill_between(x, line.low, line.high, color=look(i).colour, alpha=0.14, linewidth=0)
        panel.plot(x, values, color=look(i).colour, linestyle=look(i).line, linewidth=1.6)
    for at, least in _leasts(group, axis):
        panel.plot(at, least, "v", color="black", markersize=5, zorder=4)


def _leasts(group: Group, axis: str) -> list[tuple[float, float]]:
    """Where each run has its least validation loss, and which."""
    found: list[tuple[float, float]] = []
    for run in group.measured:
        point = best_point(run, VALIDATED)
        if point is not None:
            at = positions(run, Curve(*(np.array([value]) for value in (*point, 0.0)))).get(axis)
            found += [(float(at[0]), point[1])] if at is not None else []
    return found


def _least(group: Group, axis: str) -> str:
    """The mean over the runs of their least loss, where that was, and what they end with."""
    found = _leasts(group, axis)
    if not found:
        return "not finite"
    at, least = float(np.mean([x for x, _ in found])), [value for _, value in found]
    last = float(np.mean([run.curves[VALIDATED].values[-1] for run in group.measured if VALIDATED in run.curves]))
    end = f"; {plain(float(f'{last:.3g}'))} at the end" if last != float(np.mean(least)) else ""
    return f"least {in_words(least)}\nat {axis[:-1]} {plain(round(at, 1))}{end}"
