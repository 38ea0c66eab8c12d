"""The figure of time against work: steps, samples and seconds until a target is reached."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metronome.report.answers import Answers
from metronome.report.figures.axes import SAME_FACTOR
from metronome.report.figures.labels import label_points
from metronome.report.figures.roles import Roles, roles_of, value_in_words
from metronome.report.figures.style import (
    QUIET,
    Look,
    Medium,
    Picture,
    figure,
    legend,
    picture,
    plain,
    scale,
)
from metronome.report.ties import best_of, same, with_whom
from metronome.report.tuning import Setting

AXES = {"samples": "samples seen", "seconds": "seconds of training"}
_LONGEST = 14  # letters of a label beside a point; longer ones stand in a legend
Points = list[tuple[Setting, Look]]


def tradeoff_picture(answers: Answers) -> Picture | str:
    """Samples and seconds against steps until each target; a sentence where there is nothing to compare."""
    summary, target = answers.best, answers.target
    if summary.monitor is None and target is None:
        return "Nothing was monitored, so no target can be set."
    if target is None:
        return f"Fewer than two groups have a curve of {summary.monitor}, so there is nothing to compare."
    roles = roles_of(summary)
    looks = [(group.values, style) for group, style in roles.looks]
    rows = {value: _points(found, looks) for value, found in answers.by_target.items()}
    rows = {value: points for value, points in rows.items() if len(points) >= 2}
    if not rows:
        said = ", ".join(plain(value) for value in answers.by_target)
        return (
            f"Fewer than two groups reach {target.metric} {said} with all their runs, so there is nothing to compare."
        )

    sign = "≤" if target.best_is_low else "≥"
    shown = list({setting.label: style for points in rows.values() for setting, style in points}.items())
    beside = all(len(_short(setting, roles)) <= _LONGEST for points in rows.values() for setting, _ in points)
    labels = [] if beside else [label for label, _ in shown]

    known = [axis for axis in AXES if any(_place(setting, axis) for points in rows.values() for setting, _ in points)]
    if not known:
        return f"Neither samples nor seconds to {target.metric} are known, so there is nothing to compare with steps."
    axes = [axis for axis in known if not all(_by_a_factor(points, axis) for points in rows.values())] or known[-1:]

    def draw(medium: Medium) -> Figure:
        made, panels = figure(len(rows), len(axes), 3.2 * len(rows) + 0.4, labels, medium)
        each = [(value, points, axis) for value, points in rows.items() for axis in axes]
        for panel, (value, points, axis) in zip(panels, each, strict=True):
            _draw_panel(panel, axis, points, roles, beside)
            panel.set_title(f"until {target.metric} {sign} {plain(value)}")
        if labels:
            handles = [panels[0].plot([], [], s.marker, color=s.colour, markersize=8)[0] for _, s in shown]
            legend(made, handles, labels, medium)
        return made

    hardest = list(rows)[-1]
    title = f"Until {target.metric} {sign} {plain(float(f'{hardest:.4g}'))}{_least(rows[hardest])}"
    alt = f"{title}. Each setting as a point: " + "; ".join(
        f"{setting.label}: {steps(setting)} steps" for setting, _ in rows[hardest]
    )
    same_work = "" if "samples" in axes else "Samples are steps by a factor that all share, and not drawn."
    return picture("tradeoff", title, f"{_caption(answers, roles.why)} {same_work}".strip(), alt, draw)


def steps(setting: Setting) -> str:
    """The mean interval in words: `(22, 24]`."""
    ends = setting.came_to.interval("steps") if setting.came_to is not None else None
    return "" if ends is None else f"({plain(round(ends[0], 1))}, {plain(round(ends[1], 1))}]"


def _points(found: list[Setting], looks: list[tuple[dict[str, str], Look]]) -> Points:
    """The settings whose runs have all come to the target, each as the group of its values looks."""
    points: Points = []
    for setting in found:
        style = next((style for values, style in looks if values == setting.values), None)
        if style is not None and setting.came_to is not None and setting.came_to.interval("steps") is not None:
            points.append((setting, style))
    return points


def _by_a_factor(points: Points, axis: str) -> bool:
    """Whether an axis is that of the steps by a factor which all settings share."""
    factors = [at[1] / at[0] for setting, _ in points if (at := _place(setting, axis)) is not None and at[0] > 0]
    return bool(factors) and max(factors) <= SAME_FACTOR * min(factors)


def _short(setting: Setting, roles: Roles) -> str:
    """What stands beside a point: the value alone where one is all that differs."""
    if roles.key is not None and setting.chosen is not None:
        return value_in_words(roles.key, setting.chosen)
    return next(iter(setting.values.values())) if len(setting.values) == 1 else setting.label


def _draw_panel(panel: Axes, axis: str, points: Points, roles: Roles, beside: bool) -> None:
    """All settings, in their order along a thin line where they are values of a number; those that are the same as one
    point."""
    drawn = [(setting, style, at) for setting, style in points if (at := _place(setting, axis)) is not None]
    for setting, style, at in drawn:
        _draw(panel, setting, style, axis, at)
    if roles.key is not None:
        panel.plot([x for _, _, (x, _) in drawn], [y for _, _, (_, y) in drawn], color=QUIET, linewidth=0.8, zorder=1)
    scale(panel, "x", _extent(drawn, "steps"), 5)
    scale(panel, "y", _extent(drawn, axis), 5)
    panel.margins(0.14)
    panel.autoscale_view()
    panel.set_xlabel("steps (parameter updates)")
    panel.set_ylabel(AXES[axis])
    if beside:
        came_to = [setting.came_to for setting, _, _ in drawn if setting.came_to is not None]
        runs = [at for one in came_to for at in zip(one.middles("steps"), one.middles(axis), strict=True)]
        ends = [(one.interval("steps"), at) for one, (_, _, at) in zip(came_to, drawn, strict=True)]
        bars = [(x, at[1]) for end, at in ends if end is not None for x in np.linspace(*end, 7)]
        label_points(panel, _labelled(drawn, roles), [*runs, *bars])


def _extent(drawn: list[tuple[Setting, Look, tuple[float, float]]], axis: str) -> list[float]:
    """All that is drawn on an axis: the runs, and the ends of the intervals."""
    came_to = [setting.came_to for setting, _, _ in drawn if setting.came_to is not None]
    return [value for one in came_to for value in (*one.middles(axis), *(one.interval(axis) or ()))]


def _labelled(drawn: list[tuple[Setting, Look, tuple[float, float]]], roles: Roles) -> list[tuple[float, float, str]]:
    """Points with their labels, one for all that lie at the same place."""
    places: list[tuple[float, float, list[str]]] = []
    for setting, _, (x, y) in drawn:
        there = next((words for at_x, at_y, words in places if same(at_x, x) and same(at_y, y)), None)
        if there is None:
            places.append((x, y, [_short(setting, roles)]))
        else:
            there.append(_short(setting, roles))
    return [(x, y, ", ".join(words)) for x, y, words in places]


def _place(setting: Setting, axis: str) -> tuple[float, float] | None:
    """The middles of both mean intervals."""
    came_to = setting.came_to
    x, y = (came_to.middle("steps"), came_to.middle(axis)) if came_to is not None else (None, None)
    return None if x is None or y is None else (x, y)


def _draw(panel: Axes, setting: Setting, style: Look, axis: str, at: tuple[float, float]) -> None:
    """A setting as its mean interval, and its runs as small hollow points."""
    came_to = setting.came_to
    assert came_to is not None
    x, y = came_to.interval("steps"), came_to.interval(axis)
    assert x is not None
    assert y is not None
    if came_to.runs > 1:
        few = {"color": style.colour, "markersize": 3.5, "markerfacecolor": "none", "markeredgewidth": 0.7}
        panel.plot(came_to.middles("steps"), came_to.middles(axis), style.marker, linestyle="none", **few)
    errors: dict[str, Any] = {"xerr": [[at[0] - x[0]], [x[1] - at[0]]], "yerr": [[at[1] - y[0]], [y[1] - at[1]]]}
    panel.errorbar(*at, **errors, fmt=style.marker, color=style.colour, markersize=7, elinewidth=1.2)


def _caption(answers: Answers, why: str) -> str:
    target = answers.target
    assert target is not None
    confirmed = (
        f" It counts where {target.confirm} validations in a row have it, the first included."
        if target.confirm > 1
        else ""
    )
    notes = [
        "Each large point is the mean over the runs of a group that differ in the seed alone, where all of them have "
        "the target; small hollow ones are the runs. Bars are the mean interval from the validation before to the "
        f"first that has it.{confirmed}",
        ""
        if answers.asking.target is not None
        else "The target is that of the results that were read."
        if any(run.hits for run in answers.whole.runs)
        else f"The target is the {target.metric} that all runs of three quarters of the groups come to.",
        f"Each with the best {answers.tune} of those tried." if answers.tune is not None else "",
    ]
    for value, found in answers.by_target.items():
        missing = [
            f"{setting.label} ({setting.came_to.count if setting.came_to is not None else '0'})"
            for setting in found
            if setting.came_to is None or not setting.came_to.by_all
        ]
        if missing:
            notes.append(f"Not reached by all runs at {plain(value)}: {'; '.join(missing)}.")
    return " ".join(filter(None, [*notes, why]))


def _least(points: Points) -> str:
    """Which settings need the fewest steps and samples; several where their intervals are the same."""
    least: list[str] = []
    for axis in ("steps", "samples"):
        known = [
            (middle, setting.label)
            for setting, _ in points
            if setting.came_to is not None and (middle := setting.came_to.middle(axis)) is not None
        ]
        if len(known) > 1:
            _, names = best_of(known, True)
            least.append(f"fewest {axis} {with_whom(names, [label for _, label in known], 40)}")
    words = ", ".join(least)
    return f": {words}" if words else ""
