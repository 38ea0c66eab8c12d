"""Figures of sweeps: every result against each swept value, with every seed to be seen."""

import math
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metronome.report.differences import Group, number_of
from metronome.report.figures.labels import swept_ticks
from metronome.report.figures.roles import with_unit
from metronome.report.figures.style import (
    MOST,
    Look,
    Medium,
    Picture,
    colour_scale,
    figure,
    file_name,
    legend,
    look,
    ordered,
    picture,
    scale,
)
from metronome.report.summary import Summary, in_words
from metronome.report.ties import with_whom
from metronome.report.value_text import shown

MOST_PANELS = 12
_MOST_CATEGORIES = 24
_MOST_TICKS = 16  # of swept values
# Shown first, of those that there are; then all others that were measured.
_FIRST = (
    "test/acc", "test/loss", "val/acc", "val/loss", "train/loss_epoch", "gap_accuracy", "gap_loss", "roughness",
    "steps", "seconds_per_epoch", "samples_per_second", "peak_memory_MB",
)  # fmt: skip
_LEFT_OUT = ("best_value", "best_step", "best_epoch", "epochs", "samples", "train/loss")
_UNITS = {
    "steps": "steps (updates)", "seconds_per_epoch": "seconds an epoch", "samples_per_second": "samples a second",
    "peak_memory_MB": "peak memory, MB", "gap_accuracy": "train set acc − test acc",
    "gap_loss": "test loss − train set loss", "roughness": "roughness of train/loss",
    "train_seconds": "seconds of training", "steps_per_second": "steps a second",
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Groups that differ in the swept value alone: `at` is the place of each on the axis. `number` is the value of the
    others, where that is one number."""

    label: str
    at: list[float]
    groups: list[Group]
    number: float | None = None


def sweep_pictures(summary: Summary) -> list[Picture]:
    """A figure for every key that differs and has two values with results."""
    pictures: list[Picture] = []
    for key in summary.differences.keys:
        groups = [group for group in summary.differences.groups if summary.values("steps", group.measured)]
        groups = [group for group in groups if any(run.status != "failed" for run in group.runs)]
        sizes = {id(group): number_of(key, group.values[key], group.runs[0]) for group in groups}
        numeric = [group for group in groups if sizes[id(group)] is not None]
        words = sorted({group.values[key] for group in groups if sizes[id(group)] is None})
        if len({sizes[id(group)] for group in numeric}) >= 2 and all(
            word in ("–", "null", "default") for word in words
        ):
            series = _series(key, numeric, {id(group): sizes[id(group)] or 0.0 for group in numeric})
            pictures += _picture(summary, key, series, None)
        elif len(values := list(dict.fromkeys(group.values[key] for group in groups))) >= 2:
            kept = values[:_MOST_CATEGORIES]
            groups = [group for group in groups if group.values[key] in kept]
            series = _series(key, groups, {id(group): float(kept.index(group.values[key])) for group in groups})
            pictures += _picture(summary, key, series, kept, len(values))
    return pictures


def _series(key: str, groups: list[Group], at: dict[int, float]) -> list[Series]:
    """A series for each combination of the other values."""
    rest: dict[str, list[Group]] = {}
    for group in groups:
        rest.setdefault(", ".join(f"{k}={v}" for k, v in group.values.items() if k != key), []).append(group)
    series = [
        Series(label, [at[id(group)] for group in found], found, _other_number(key, found[0]))
        for label, some in rest.items()
        for found in [sorted(some, key=lambda group: at[id(group)])]
    ]
    numbers = [one.number for one in series]
    return sorted(series, key=lambda one: one.number or 0.0) if None not in numbers else series


def _other_number(key: str, group: Group) -> float | None:
    others = [other for other in group.values if other != key]
    return number_of(others[0], group.values[others[0]], group.runs[0]) if len(others) == 1 else None


def _picture(
    summary: Summary, key: str, series: list[Series], categories: list[str] | None, of_categories: int = 0
) -> list[Picture]:
    """Small multiples: a panel for each result, a line for each series; only points where there are many series.

    None at all where all results are the same.
    """
    groups = [group for one in series for group in one.groups]
    measures = _measures(summary, groups)[:MOST_PANELS]
    if not measures:
        return []
    combinations, apart = len(series), len(series) <= MOST
    if not apart:
        series = [Series("", [at for one in series for at in one.at], groups)]
    is_scale = apart and len(series) > 2 and None not in [one.number for one in series]
    looks = ordered(len(series)) if is_scale else [look(i) for i in range(len(series))]
    names = [one.label for one in series] if apart and len(series) > 1 else []
    labels = [] if is_scale else names

    def draw(medium: Medium) -> Figure:
        columns = min(3, len(measures))
        rows = -(-len(measures) // columns)
        tall = 2.35 if categories is None else max(2.0, 0.9 + 0.27 * len(categories))
        height = rows * tall + 0.5 + 0.55 * is_scale
        made, panels = figure(rows, columns, height, labels, medium, len(measures), sharey=categories is not None)
        for i, (panel, measure) in enumerate(zip(panels, measures, strict=True)):
            _draw_panel(summary, panel, measure, series, looks, categories, apart)
            if categories is None and (medium.columns == 1 or i >= len(measures) - columns):
                panel.set_xlabel(with_unit(key))
        if is_scale:
            other = next(k for k in groups[0].values if k != key)
            values = [one.label.partition("=")[2] for one in series]
            colour_scale(made, panels, with_unit(other), values, medium)
        line = "-" if categories is None else "none"
        handles = [
            Line2D([], [], color=o.colour, linestyle=o.line if line == "-" else line, marker=o.marker) for o in looks
        ]
        legend(made, handles[: len(labels)], labels, medium)
        return made

    title = _title(summary, key, groups)
    notes = ["Each small hollow point is a run; the large ones are means, bars go from the least to the largest."]
    if not apart:
        notes.append(f"The {combinations:,} combinations of the other values are not told apart.")
    if categories is not None and of_categories > len(categories):
        notes.append(f"The first {len(categories)} of {of_categories} values.")
    if equal := _equal(summary, groups):
        notes.append(f"The same for all, and not drawn: {', '.join(_UNITS.get(name, name) for name in equal)}.")
    named = ", ".join(_UNITS.get(measure, measure) for measure in measures)
    alt = f"{title}: {named}." + (f" One line for each of {'; '.join(names)}." if names else "")
    return [picture(file_name("sweep", key), title, " ".join(notes), alt, draw)]


def _draw_panel(
    summary: Summary, panel: Axes, measure: str, series: list[Series], looks: list[Look], categories: list[str] | None,
    apart: bool,
) -> None:  # fmt: skip
    values: list[float] = []
    for i, (one, style) in enumerate(zip(series, looks, strict=True)):
        shift = 0.0 if categories is None or not apart else (i - (len(series) - 1) / 2) * 0.6 / len(series)
        values += _draw(summary, panel, measure, one, style, categories is not None, shift, apart)
    # A gap may be on both sides of 0, so it is never shown by its logarithm.
    scale(panel, "x" if categories else "y", values, math.inf if measure.startswith("gap") else 8)
    panel.set_title(_UNITS.get(measure, measure), fontsize=10.5)
    if categories is None:
        places = [at for one in series for at in one.at]
        scale(panel, "x", places, 7)
        _whole(panel, places)
    else:
        panel.set_yticks(range(len(categories)), [shown(c if len(c) < 30 else c[:28] + "…") for c in categories])
        panel.set_ylim(len(categories) - 0.4, -0.6)


def _title(summary: Summary, key: str, groups: list[Group]) -> str:
    """By which value the best result came; where groups differ in other values too, by which of these as well."""
    best = summary.best_groups(groups)
    if best is None:
        return f"Results by {key}"
    values, names, every = best
    at = {group.label: shown(group.values[key]) if len(group.values) == 1 else group.label for group in groups}
    tied, of = ([at[name] for name in some] for some in (names, every))
    return f"Results by {key}: the best {summary.monitor} {with_whom(tied, of)} ({in_words(values)})"


def _draw(
    summary: Summary, panel: Axes, measure: str, one: Series, style: Look, flat: bool, shift: float, apart: bool
) -> list[float]:
    """One series of one result; returns its values. `flat`: values go along x."""
    at: list[float] = []
    means: list[float] = []
    ends: list[tuple[float, float]] = []
    drawn: list[float] = []
    places: list[float] = []
    for place, group in zip(one.at, one.groups, strict=True):
        values = summary.values(measure, group.measured)
        if not values:
            continue
        at.append(place + shift)
        means.append(fmean(values))
        ends.append((means[-1] - min(values), max(values) - means[-1]))
        drawn += values
        places += [place + shift] * len(values)
    hollow = {"color": style.colour, "markersize": 3.5, "markerfacecolor": "none", "markeredgewidth": 0.7}
    panel.plot(*(drawn, places) if flat else (places, drawn), style.marker, linestyle="none", **hollow)
    if not (at and apart):
        return drawn
    line = "none" if flat else style.line
    bars = [[max(low, 0.0) for low, _ in ends], [max(high, 0.0) for _, high in ends]]
    xy, errors = ((means, at), {"xerr": bars}) if flat else ((at, means), {"yerr": bars})
    if not any(map(any, bars)):
        errors = {}
    looks = {"color": style.colour, "linestyle": line, "marker": style.marker, "markersize": 5, "linewidth": 1.6}
    panel.errorbar(*xy, **errors, **looks, elinewidth=1.1)
    return drawn


def _equal(summary: Summary, groups: list[Group]) -> list[str]:
    """The results that are the same everywhere."""
    names = [column.name for column in summary.columns if column.name not in _LEFT_OUT]
    means = {name: [fmean(v) for group in groups if (v := summary.values(name, group.measured))] for name in names}
    return [name for name, of in means.items() if len(of) >= 2 and summary.is_the_same(name, groups)]


def _measures(summary: Summary, groups: list[Group]) -> list[str]:
    """The results that are not the same everywhere, those of `_FIRST` first."""
    names = [column.name for column in summary.columns if column.name not in _LEFT_OUT]
    found: list[str] = []
    for name in sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        means = [fmean(values) for group in groups if (values := summary.values(name, group.measured))]
        if len(means) >= 2 and not summary.is_the_same(name, groups):
            found.append(name)
    return found


def _whole(panel: Axes, places: list[float]) -> None:
    """All swept values on the axis, with or without a result; as ticks where they are few."""
    values = sorted(set(places))
    if panel.get_xscale() == "log":
        margin = (values[-1] / values[0]) ** 0.06
        panel.set_xlim(values[0] / margin, values[-1] * margin)
    else:
        margin = (values[-1] - values[0]) * 0.06
        panel.set_xlim(values[0] - margin, values[-1] + margin)
    if len(values) <= _MOST_TICKS:
        swept_ticks(panel, values)
