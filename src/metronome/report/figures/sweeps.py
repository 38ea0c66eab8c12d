"""Figures of sweeps: every result against each swept value, with every seed to be seen."""

import math
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes

from metronome.report.differences import Group, number_of
from metronome.report.figures.style import (
    MOST,
    Look,
    Picture,
    figure,
    file_name,
    headline,
    legend,
    look,
    plain,
    png,
    scale,
)
from metronome.report.summary import Summary, in_words, mean_and_spread
from metronome.report.ties import same, with_whom
from metronome.report.value_text import shown

MOST_PANELS = 12
_MOST_CATEGORIES = 24
# Shown first, of those that there are; then all others that were measured.
_FIRST = (
    "test/acc", "test/loss", "val/acc", "val/loss", "train/loss_epoch", "gap_accuracy", "gap_loss", "roughness",
    "steps", "seconds_per_epoch", "samples_per_second", "peak_memory_MB",
)  # fmt: skip
_LEFT_OUT = ("best_value", "best_step", "best_epoch", "epochs", "samples", "train/loss")
_UNITS = {
    "steps": "steps (updates)", "seconds_per_epoch": "seconds an epoch", "samples_per_second": "samples a second",
    "peak_memory_MB": "peak memory, MB", "gap_accuracy": "train set acc − test acc", 
    "gap_loss": "test loss − train set loss",
    "roughness": "roughness of train/loss", "train_seconds": "seconds of training",
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Groups that differ in the swept value alone: `at` is the place of each on the axis."""

    label: str
    at: list[float]
    groups: list[Group]


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
    ordered = {label: sorted(found, key=lambda group: at[id(group)]) for label, found in rest.items()}
    return [Series(label, [at[id(group)] for group in found], found) for label, found in ordered.items()]


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
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    tall = 2.35 if categories is None else max(2.0, 0.9 + 0.27 * len(categories))
    combinations, apart = len(series), len(series) <= MOST
    if not apart:
        series = [Series("", [at for one in series for at in one.at], groups)]
    labels = [one.label for one in series] if apart and len(series) > 1 else []
    made, panels = figure(rows, columns, rows * tall + 0.5, labels, sharey=categories is not None)
    for panel, measure in zip(panels, measures, strict=False):
        values: list[float] = []
        for i, one in enumerate(series):
            style = look(i)
            shift = 0.0 if categories is None or not apart else (i - (len(series) - 1) / 2) * 0.6 / len(series)
            values += _draw(summary, panel, measure, one, style, categories is not None, shift, apart)
        # A gap may be on both sides of 0, so it is never shown by its logarithm.
        scale(panel, "x" if categories else "y", values, math.inf if measure.startswith("gap") else 30)
        panel.set_title(_UNITS.get(measure, measure), fontsize=10.5)
        if categories is None:
            places = [at for one in series for at in one.at]
            scale(panel, "x", places, 10)
            _whole(panel, places)
        else:
            panel.set_yticks(range(len(categories)), [shown(c if len(c) < 30 else c[:28] + "…") for c in categories])
            panel.set_ylim(len(categories) - 0.4, -0.6)
    for panel in panels[len(measures) :]:
        panel.set_visible(False)
    unit = " (samples)" if key == "data.batch_size" else ""
    title = _title(summary, key, groups)
    headline(made, title)
    if categories is None:
        for panel in panels[max(0, len(measures) - columns) : len(measures)]:
            panel.set_xlabel(f"{key}{unit}")
    legend(made, [_handle(panels[0], look(i), categories is None) for i in range(len(labels))], labels)
    notes = [
        "Each small point is a run; the large ones are means, with one standard deviation over seeds to each side."
    ]
    if not apart:
        notes.append(f"The {combinations:,} combinations of the other values are not told apart.")
    if categories is not None and of_categories > len(categories):
        notes.append(f"The first {len(categories)} of {of_categories} values.")
    named = ", ".join(_UNITS.get(measure, measure) for measure in measures)
    alt = f"{title}: {named}." + (f" One line for each of {'; '.join(labels)}." if labels else "")
    return [Picture(file_name("sweep", key), title, " ".join(notes), alt, png(made))]


def _title(summary: Summary, key: str, groups: list[Group]) -> str:
    best = summary.best_groups(groups)
    if best is None:
        return f"What {key} does"
    values, names, every = best
    at = {group.label: shown(group.values[key]) for group in groups}
    # Groups that differ in other values too may share this one.
    tied, of = (list(dict.fromkeys(at[name] for name in some)) for some in (names, every))
    return f"What {key} does: {summary.monitor} is best {with_whom(tied, of, 40)} ({in_words(values)})"


def _draw(
    summary: Summary, panel: Axes, measure: str, one: Series, style: Look, flat: bool, shift: float, apart: bool
) -> list[float]:
    """One series of one result; returns its values. `flat`: values go along x."""
    at: list[float] = []
    means: list[float] = []
    spreads: list[float] = []
    drawn: list[float] = []
    places: list[float] = []
    for place, group in zip(one.at, one.groups, strict=True):
        values = summary.values(measure, group.measured)
        if not values:
            continue
        mean, spread = mean_and_spread(values)
        at.append(place + shift)
        means.append(mean)
        spreads.append(spread or 0.0)
        drawn += values
        places += [place + shift] * len(values)
    small = {"color": style.colour, "markersize": 3.5, "alpha": 0.5, "markeredgewidth": 0}
    panel.plot(*(drawn, places) if flat else (places, drawn), style.marker, **small)
    if not (at and apart):
        return drawn
    line = "none" if flat else style.line
    xy, errors = ((means, at), {"xerr": spreads}) if flat else ((at, means), {"yerr": spreads})
    if not any(spreads):
        errors = {}
    looks = {"color": style.colour, "linestyle": line, "marker": style.marker, "markersize": 5.5, "linewidth": 1.6}
    panel.errorbar(*xy, **errors, **looks, elinewidth=1.1, capsize=2.5)
    return drawn


def _handle(panel: Axes, style: Look, line: bool) -> object:
    return panel.plot([], [], color=style.colour, linestyle=style.line if line else "none", marker=style.marker)[0]


def _measures(summary: Summary, groups: list[Group]) -> list[str]:
    """The results that are not the same everywhere, those of `_FIRST` first."""
    names = [column.name for column in summary.columns if column.name not in _LEFT_OUT]
    found: list[str] = []
    for name in sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        means = [fmean(values) for group in groups if (values := summary.values(name, group.measured))]
        if len(means) >= 2 and not all(same(mean, means[0]) for mean in means):
            found.append(name)
    return found


def _whole(panel: Axes, places: list[float]) -> None:
    """All swept values on the axis, with or without a result; as ticks where they are few."""
    values = sorted(set(places))
    panel.minorticks_off()  # each is drawn, and there are many panels
    if panel.get_xscale() == "log":
        margin = (values[-1] / values[0]) ** 0.06
        panel.set_xlim(values[0] / margin, values[-1] * margin)
    else:
        margin = (values[-1] - values[0]) * 0.06
        panel.set_xlim(values[0] - margin, values[-1] + margin)
    is_log = panel.get_xscale() == "log"
    if len(values) <= 5 or (len(values) <= 12 and is_log):
        whole = math.log(values[-1] / values[0]) if is_log else values[-1] - values[0]
        ticks = values[:1]
        for value in values[1:]:
            if (math.log(value / ticks[-1]) if is_log else value - ticks[-1]) > 0.11 * whole:
                ticks.append(value)
        panel.set_xticks(ticks, [plain(value) for value in ticks], rotation=40 if len(ticks) > 5 else 0)
