"""The figure of time against work: steps, samples and seconds until a target is reached."""

from statistics import fmean

from metronome.report.answers import Answers
from metronome.report.figures.roles import roles_of
from metronome.report.figures.style import Look, Picture, figure, headline, legend, plain, png, scale
from metronome.report.ties import best_of, with_whom
from metronome.report.tuning import Setting

AXES = ("samples", "seconds")


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

    shown = list({setting.label: style for points in rows.values() for setting, style in points}.items())
    made, panels = figure(len(rows), 2, 3.6 * len(rows) + 0.4, [label for label, _ in shown])
    sign = "≤" if target.best_is_low else "≥"
    for (value, points), row in zip(rows.items(), zip(panels[::2], panels[1::2], strict=True), strict=True):
        for panel, axis in zip(row, AXES, strict=True):
            xs, ys = [], []
            for setting, style in points:
                x, y = _draw(panel, setting, style, axis)
                xs, ys = xs + x, ys + y
            scale(panel, "x", xs, 8)
            scale(panel, "y", ys, 8)
            panel.margins(0.12)
            panel.set_title(f"until {target.metric} {sign} {plain(value)}")
            panel.set_xlabel("steps (parameter updates)")
            panel.set_ylabel("seconds of training" if axis == "seconds" else axis)
    handles = [panels[0].plot([], [], s.marker, color=s.colour, markersize=8)[0] for _, s in shown]
    legend(made, handles, [label for label, _ in shown])
    hardest = list(rows)[-1]
    title = f"Until {target.metric} {sign} {plain(float(f'{hardest:.4g}'))}{_least(rows[hardest])}"
    headline(made, title)
    alt = f"{title}. Each setting as a point: " + "; ".join(
        f"{setting.label}: {steps(setting)} steps" for setting, _ in rows[hardest]
    )
    return Picture("tradeoff", title, _caption(answers, roles.why), alt, png(made))


def steps(setting: Setting) -> str:
    """The mean interval in words: `(22, 24]`."""
    ends = setting.came_to.interval("steps") if setting.came_to is not None else None
    return "" if ends is None else f"({plain(round(ends[0], 1))}, {plain(round(ends[1], 1))}]"


def _points(found: list[Setting], looks: list[tuple[dict[str, str], Look]]) -> list[tuple[Setting, Look]]:
    """The settings whose runs have all come to the target, each as the group of its values looks."""
    points: list[tuple[Setting, Look]] = []
    for setting in found:
        style = next((style for values, style in looks if values == setting.values), None)
        if style is not None and setting.came_to is not None and setting.came_to.interval("steps") is not None:
            points.append((setting, style))
    return points


def _draw(panel: object, setting: Setting, style: Look, axis: str) -> tuple[list[float], list[float]]:
    """A setting as its mean interval, and its runs as small points; returns where it is."""
    came_to = setting.came_to
    assert came_to is not None
    x, y = came_to.interval("steps"), came_to.interval(axis)
    if x is None or y is None:
        return [], []
    draw: object = panel
    if came_to.runs > 1:
        few = {"color": style.colour, "markersize": 3.5, "alpha": 0.5, "markeredgewidth": 0}
        draw.plot(came_to.middles("steps"), came_to.middles(axis), style.marker, **few)  # pyright: ignore
    at = fmean(x), fmean(y)
    errors = {"xerr": [[at[0] - x[0]], [x[1] - at[0]]], "yerr": [[at[1] - y[0]], [y[1] - at[1]]]}
    draw.errorbar(*at, **errors, fmt=style.marker, color=style.colour, markersize=8, elinewidth=1.2)  # pyright: ignore
    return [at[0]], [at[1]]


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
        "the target; small ones are the runs. Bars are the mean interval from the validation before to the first that "
        f"has it.{confirmed}",
        ""
        if answers.asking.target is not None
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


def _least(points: list[tuple[Setting, Look]]) -> str:
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
