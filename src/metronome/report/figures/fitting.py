"""A figure of training against validation: from under-fitting to over-fitting."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from metronome.report.differences import Group
from metronome.report.figures.axes import AXES
from metronome.report.figures.lines import Line, line_of
from metronome.report.figures.roles import roles_of
from metronome.report.figures.style import Picture, figure, headline, legend, look, plain, png
from metronome.report.summary import Summary

MOST_PANELS = 6
TRAINED, VALIDATED = ("train/loss_epoch", "train/loss"), "val/loss"
_LONGEST = 38  # letters over a panel


def fitting_picture(summary: Summary) -> Picture | None:
    """The loss of training and of validation on one axis, a panel for each group; None where none has both."""
    roles = roles_of(summary)
    having = [(group, curves) for group, _ in roles.looks if (curves := both(group)) is not None]
    if not having:
        return None
    count = min(len(having), MOST_PANELS)
    shown = [having[round(i * (len(having) - 1) / max(count - 1, 1))] for i in range(count)]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    axis = "epochs" if all("epochs" in line.xs for _, lines in shown for line in lines) else "steps"
    handles = [
        Line2D([], [], color=look(0).colour, linestyle=look(0).line, linewidth=2),
        Line2D([], [], color=look(1).colour, linestyle=look(1).line, linewidth=2),
        Line2D([], [], color="black", linestyle="none", marker="v", markersize=7),
    ]
    labels = ["training", "validation", "least validation loss"]
    made, panels = figure(rows, columns, 3.4 if len(shown) == 1 else 2.6 * rows, labels, sharey=True)
    for panel, (group, lines) in zip(panels, shown, strict=False):
        best = _draw(panel, axis, lines)
        label = group.label if len(group.label) <= _LONGEST else group.label[: _LONGEST - 1] + "…"
        panel.set_title(f"{label}\n{best}" if len(having) > 1 else best, fontsize=10)
        panel.set_xlabel(AXES[axis])
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    for panel in panels[::columns]:
        panel.set_ylabel("loss")
    top = _top([lines for _, lines in shown])
    panels[0].set_ylim(0, top if top < math.inf else None)
    legend(made, handles, labels)
    title = "Training loss and validation loss"
    headline(made, title)
    left_out = len(having) - len(shown)
    notes = [
        "Training: the mean over each epoch, while its weights changed. Lines are means over seeds, bands go from the "
        "least to the largest.",
        f"Losses above {plain(float(f'{top:.2g}'))} are not shown." if top < math.inf else "",
        f"{left_out} more groups are not shown." if left_out else "",
    ]
    alt = f"{title}. Panels of training and validation loss against {axis}: " + "; ".join(g.label for g, _ in shown)
    return Picture("fitting", title, " ".join(filter(None, notes)), alt, png(made))


def both(group: Group) -> list[Line] | None:
    """The loss in training and in validation of a group, each as the mean over its seeds."""
    for tag in TRAINED:
        runs = [run for run in group.measured if tag in run.curves and VALIDATED in run.curves]
        runs = [run for run in runs if len(run.curves[VALIDATED].steps) > 1]
        if runs:
            return [line_of(runs, [run.curves[name] for run in runs]) for name in (tag, VALIDATED)]
    return None


def _top(shown: list[list[Line]]) -> float:
    """Where the axis ends: twice the highest loss that a validation ends with, so that the rise before can be seen;
    infinity where nothing is above."""
    ends = [float(lines[1].values[-1]) for lines in shown]
    ends = [end for end in ends if np.isfinite(end)]
    most = max(float(np.max(line.values[np.isfinite(line.values)], initial=0)) for lines in shown for line in lines)
    return 2 * max(ends) if ends and most > 2 * max(ends) > 0 else math.inf


def _draw(panel: Axes, axis: str, lines: list[Line]) -> str:
    """Draws both, and says where the validation is best."""
    for i, line in enumerate(lines):
        x = line.xs[axis]
        if line.low is not None and line.high is not None:
            panel.fill_between(x, line.low, line.high, color=look(i).colour, alpha=0.14, linewidth=0)
        panel.plot(x, line.values, color=look(i).colour, linestyle=look(i).line, linewidth=1.8)
    validated = lines[1]
    if not np.isfinite(validated.values).any():
        return "not finite"
    best = int(np.nanargmin(np.where(np.isfinite(validated.values), validated.values, np.nan)))
    at, least = float(validated.xs[axis][best]), float(validated.values[best])
    panel.plot(at, least, "v", color="black", markersize=7, zorder=4)
    last = float(validated.values[-1])
    end = f", {plain(float(f'{last:.3g}'))} at the end" if best < len(validated.values) - 1 else ""
    return f"least {plain(float(f'{least:.3g}'))} at {plain(round(at, 1))}{end}"
