"""The figure of steps to a target against the batch size, beside the fit; and the best rate against it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metronome.report.answers import Answers
from metronome.report.differences import number_of
from metronome.report.figures.labels import swept_ticks
from metronome.report.figures.style import (
    QUIET,
    Look,
    Medium,
    Picture,
    figure,
    legend,
    ordered,
    picture,
    plain,
    scale,
)
from metronome.report.scaling import Scaling, fit
from metronome.report.tuning import Setting

KEY, RATE = "data.batch_size", "optimizer.lr"
_LEAST = 4  # batch sizes


def scaling_picture(answers: Answers) -> Picture | None:
    """None unless the batch size is all that differs (but for what is tuned), and four of them come to a target."""
    target, keys = answers.target, answers.best.differences.keys
    if target is None or keys != [KEY]:
        return None
    rows = {value: measured(found) for value, found in answers.by_target.items()}
    rows = {value: points for value, points in rows.items() if len(points) >= _LEAST}
    fits = {value: found for value, points in rows.items() if (found := fit_of(points)) is not None}
    if not fits:
        return None
    has_rates = answers.tune == RATE
    sign = "≤" if target.best_is_low else "≥"
    looks = {value: one for value, one in zip(fits, ordered(len(fits)), strict=True)}
    labels = [f"{target.metric} {sign} {plain(value)}" for value in fits]
    labels += ["fit S = S_min (1 + B_crit / B)", "its two limits", *(["at the edge of the rates"] if has_rates else [])]

    def draw(medium: Medium) -> Figure:
        made, panels = figure(1, 2 if has_rates else 1, 4.2, labels, medium)
        for i, (value, found) in enumerate(fits.items()):
            _draw_steps(panels[0], rows[value], found, looks[value])
            if has_rates:
                _draw_rates(panels[1], rows[value], looks[value], i)
        panels[0].set_yscale("log")
        _axes(panels[0], rows, "steps (parameter updates)")
        if has_rates:
            _rules(panels[1], rows[next(iter(fits))])
            _axes(panels[1], rows, "best learning rate")
        handles = [Line2D([], [], color=one.colour, marker="o", linestyle="none") for one in looks.values()]
        handles += [Line2D([], [], color=QUIET, linewidth=1.4), Line2D([], [], color=QUIET, linestyle=":")]
        handles += [Line2D([], [], color=QUIET, marker="x", linestyle="none")] * has_rates
        legend(made, handles, labels, medium)
        return made

    easiest = next(iter(fits.values()))
    title = (
        f"Steps to a target by batch size: S_min {plain(_three(easiest.s_min))}, B_crit {plain(_three(easiest.b_crit))}"
    )
    title += f" at {plain(next(iter(fits)))}"
    return picture("scaling", title, _caption(answers, fits, rows), _alt(title, fits), draw)


def fit_of(points: list[tuple[float, Setting]]) -> Scaling | None:
    """The fit through the middles of the mean intervals."""
    return fit([size for size, _ in points], [_middle(setting) for _, setting in points])


def measured(found: list[Setting]) -> list[tuple[float, Setting]]:
    """Batch sizes, ascending, with the settings whose runs all came to the target."""
    points: list[tuple[float, Setting]] = []
    for setting in found:
        if setting.chosen is None or setting.came_to is None or setting.came_to.interval("steps") is None:
            continue
        size = number_of(KEY, setting.values[KEY], setting.chosen.runs[0])
        if size is not None:
            points.append((size, setting))
    return sorted(points, key=lambda point: point[0])


def _middle(setting: Setting) -> float:
    middle = setting.came_to.middle("steps") if setting.came_to is not None else None
    assert middle is not None
    return middle


def _draw_steps(panel: Axes, points: list[tuple[float, Setting]], found: Scaling, style: Look) -> None:
    for size, setting in points:
        came_to = setting.came_to
        assert came_to is not None
        ends, middle = came_to.interval("steps"), _middle(setting)
        assert ends is not None
        runs = came_to.middles("steps")
        few = {"color": style.colour, "markersize": 3.5, "markerfacecolor": "none", "markeredgewidth": 0.7}
        panel.plot([size] * len(runs), runs, style.marker, linestyle="none", **few)
        errors = [[middle - max(ends[0], 0.5)], [ends[1] - middle]]
        panel.errorbar(size, middle, yerr=errors, fmt=style.marker, color=style.colour, markersize=6, capsize=2)
    sizes = np.geomspace(points[0][0], points[-1][0], 200)
    panel.plot(sizes, [found.steps(size) for size in sizes], color=style.colour, linewidth=1.6)
    limits = {"color": style.colour, "linestyle": ":", "linewidth": 1.2}
    below, above = sizes[sizes <= max(found.b_crit, sizes[0])], sizes[sizes >= min(found.b_crit, sizes[-1])]
    panel.plot(below, found.e_min / below, **limits)
    panel.plot(above, np.full(len(above), found.s_min), **limits)


def _draw_rates(panel: Axes, points: list[tuple[float, Setting]], style: Look, i: int) -> None:
    """The best rates as rings, those of a harder target around those of an easier one, so that equal ones are seen to
    be equal; a cross where it is at the edge of what was tried."""
    for size, setting in points:
        if setting.chosen is not None:
            rate = float(setting.chosen.values[RATE])
            ring = {"color": style.colour, "markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 5 + 4.5 * i}
            panel.plot(size, rate, "o", **ring)
            if setting.at_edge:
                panel.plot(size, rate, "x", color=style.colour, markersize=5 + 4.5 * i)


def _rules(panel: Axes, points: list[tuple[float, Setting]]) -> None:
    """Linear and root rule from the best rate of the smallest batch."""
    size, setting = points[0]
    assert setting.chosen is not None
    rate = float(setting.chosen.values[RATE])
    rates = [float(s.chosen.values[RATE]) for _, s in points if s.chosen is not None]
    top = 2 * max(rates)
    sizes = np.geomspace(size, points[-1][0], 100)
    for power, words, line in ((1.0, "linear rule", "--"), (0.5, "root rule", "-.")):
        values = rate * (sizes / size) ** power
        kept = values <= top
        panel.plot(sizes[kept], values[kept], line, color=QUIET, linewidth=1.3)
        where = {"xytext": (-4, 3), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        panel.annotate(words, (sizes[kept][-1], values[kept][-1]), fontsize=9.5, color=QUIET, **where)
    panel.set_yscale("log")
    panel.set_ylim(min(rates) / 1.8, top * 1.5)


def _axes(panel: Axes, rows: dict[float, list[tuple[float, Setting]]], words: str) -> None:
    sizes = sorted({size for points in rows.values() for size, _ in points})
    scale(panel, "x", sizes, 0)
    panel.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    swept_ticks(panel, sizes)
    low, high = panel.get_ylim()
    scale(panel, "y", [low, high], 0)
    panel.set_xlabel("batch size (samples)")
    panel.set_ylabel(words)


def _caption(answers: Answers, fits: dict[float, Scaling], rows: dict[float, list[tuple[float, Setting]]]) -> str:
    def one(value: float, found: Scaling) -> str:
        runs = min(setting.came_to.runs for _, setting in rows[value] if setting.came_to is not None)
        off = f"{100 * found.misfit:.0f} % (root mean square; at most {100 * found.most:.0f} %, with "
        s_min, b_crit = plain(_three(found.s_min)), plain(_three(found.b_crit))
        return (
            f"at {plain(value)} S_min {s_min} steps, B_crit {b_crit} samples, "
            f"misfit {off}{plain(found.most_at)}), over {len(rows[value])} batch sizes of {runs} runs"
        )

    found = "; ".join(one(value, scaling) for value, scaling in fits.items())
    rates = (
        " Then the best rate of those tried, a ring for each target, the hardest the widest, with a cross at the edge "
        "of what was tried; beside the linear and the root rule from the smallest batch."
        if answers.tune == RATE
        else ""
    )
    return (
        f"First the mean interval in which all runs come to the target, hollow points are the runs; "
        f"lines: S = S_min (1 + B_crit / B), fitted: "
        f"{found}. Dotted: its limits, perfect scaling (twice the batch, half the steps) and saturation. "
        f"McCandlish et al. 2018 (arXiv 1812.06162), Shallue et al. 2019 (arXiv 1811.03600).{rates}"
    )


def _alt(title: str, fits: dict[float, Scaling]) -> str:
    return f"{title}. " + "; ".join(
        f"{value:g}: {one.s_min:.3g} steps, {one.b_crit:.3g} samples" for value, one in fits.items()
    )


def _three(value: float) -> float:
    return float(f"{value:.3g}")
