"""Figures of what `+study=gradient` measures: how accurate the gradient of a batch is, and how large in each layer."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metronome.report.differences import Group
from metronome.report.figures.labels import swept_ticks
from metronome.report.figures.style import QUIET, Medium, Picture, figure, legend, ordered, picture, plain, scale
from metronome.report.records import RunRecord, number
from metronome.report.summary import Summary

ACCURACY_FILE, LAYERS_FILE = "gradient.csv", "gradient_layers.csv"
_MOST_GROUPS = 4
_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Points:
    """What the runs of a group have measured: by step and batch size (or parameter), then by the name of the column, a
    list of numbers, one a run."""

    group: Group
    runs: int
    values: dict[tuple[int, Any], dict[str, list[float]]]

    @property
    def steps(self) -> list[int]:
        return sorted({step for step, _ in self.values})

    def at(self, step: int, column: str) -> tuple[list[Any], list[list[float]]]:
        keys = [key for at, key in self.values if at == step]
        return keys, [self.values[step, key][column] for key in keys]


def gradient_pictures(summary: Summary) -> list[Picture]:
    """One of cosine and error by batch size, one of the gradient's size by layer; none where no run measured them."""
    accuracy, layers = _read(summary, ACCURACY_FILE, "batch_size"), _read(summary, LAYERS_FILE, "parameter")
    return [*([_accuracy_picture(accuracy)] if accuracy else []), *([_layers_picture(layers)] if layers else [])]


def gradient_files(summary: Summary) -> dict[str, bytes]:
    """The numbers drawn, as CSV: means over runs that differ in their seed alone, and standard deviations."""
    found = ((name, _read(summary, name, key), key) for name, key in
             ((ACCURACY_FILE, "batch_size"), (LAYERS_FILE, "parameter")))  # fmt: skip
    return {name: _to_csv(points, key).encode() for name, points, key in found if points}


def _read(summary: Summary, name: str, key: str) -> list[Points]:
    found = [(group, _of_group(group.measured, name, key)) for group in summary.differences.groups]
    return [Points(group, count, values) for group, (count, values) in found if values]


def _of_group(
    runs: Sequence[RunRecord], name: str, key: str
) -> tuple[int, dict[tuple[int, Any], dict[str, list[float]]]]:
    values: dict[tuple[int, Any], dict[str, list[float]]] = {}
    count = 0
    for run in runs:
        try:
            rows = list(csv.DictReader(io.StringIO((run.folder / name).read_text())))
            table = [(int(row["step"]), int(row[key]) if key == "batch_size" else row[key], row) for row in rows]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            run.problems.append(f"{name}: {error}")
            continue
        count += 1
        for step, at, row in table:
            columns = values.setdefault((step, at), {})
            for column, text in row.items():
                if column not in ("step", key) and (value := number(text)) is not None:
                    columns.setdefault(column, []).append(value)
    return count, values


def _to_csv(found: Sequence[Points], key: str) -> str:
    content = io.StringIO()
    columns = list(next(iter(found[0].values.values())))
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["group", "runs", "step", key, *(c + end for c in columns for end in ("", "_sd"))])
    for points in found:
        for (step, at), values in sorted(points.values.items(), key=lambda item: item[0][0]):
            means = [f"{value:.6g}" for c in columns for value in _mean_and_spread(values.get(c, []))]
            writer.writerow([points.group.label, points.runs, step, at, *means])
    return content.getvalue()


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    return fmean(values), stdev(values) if len(values) > 1 else 0.0


def _colours(steps: Sequence[int]) -> list[Any]:
    """From early to late, all dark enough on white."""
    return [one.colour for one in ordered(len(steps))]


def _accuracy_picture(found: Sequence[Points]) -> Picture:
    shown, steps = found[:_MOST_GROUPS], sorted({step for points in found for step in points.steps})
    colours = dict(zip(steps, _colours(steps), strict=True))
    handles, labels = _legend_of(steps, colours)
    handles.append(Line2D([], [], color=QUIET, linewidth=1.4))
    labels.append("predicted from the noise scale")

    def draw(medium: Medium) -> Figure:
        made, panels = figure(len(shown), 2, 3.3 * len(shown), labels, medium)
        for row, points in enumerate(shown):
            for panel, column, what in (
                (panels[2 * row], "cosine", "cosine of the angle\nto the full gradient"),
                (panels[2 * row + 1], "error", "distance to the full gradient,\nin lengths of it"),
            ):
                _draw_accuracy(panel, points, column, steps, colours)
                panel.set_ylabel(what, fontsize=9.5)
                panel.set_xlabel("batch size (samples)")
            panels[2 * row].set_ylim(0, 1.04)
            panels[2 * row].set_title(_titled(points, len(found)), loc="left", fontsize=10.5)
            scales = [fmean(points.at(step, "noise_scale")[1][0]) for step in points.steps]
            words = ", ".join(plain(float(f"{scale:.2g}")) for scale in scales)
            panels[2 * row + 1].set_title(f"noise scale {words} samples", loc="left", fontsize=10.5)
        legend(made, handles, labels, medium)
        return made

    title = "How accurate the gradient of a batch is"
    notes = [
        "Points: means over random batches and seeds, with the range over seeds. Lines: 1/√(1 + e²) and "
        "e = √(noise scale · (1/B − 1/N)), with the noise scale of all N training samples at the same weights "
        "(McCandlish et al. 2018, arXiv 1812.06162), whose mean over seeds stands above, in the order of the steps. A "
        "cosine of 1 is the direction of the full gradient, a distance of 1 as much noise as gradient.",
        f"{len(found) - len(shown)} more groups are not shown." if len(found) > len(shown) else "",
    ]
    alt = f"{title}: " + "; ".join(
        f"{p.group.label} step {step}: cosine {plain(float(f'{fmean(value):.2g}'))} at {size} samples"
        for p in shown for step in p.steps for size, value in zip(*p.at(step, "cosine"), strict=True)
        if size in (8, 32, 128)
    )  # fmt: skip
    return picture("gradient_accuracy", title, " ".join(filter(None, notes)), alt, draw)


def _draw_accuracy(panel: Axes, points: Points, column: str, steps: Sequence[int], colours: dict[int, Any]) -> None:
    all_sizes: list[float] = []
    all_values: list[float] = []
    for i, step in enumerate(steps):
        sizes, values = points.at(step, column)
        predicted = [fmean(value) for value in points.at(step, f"{column}_predicted")[1]]
        means = [fmean(value) for value in values]
        # The gradient of all samples is itself: a cosine of 1 and an error of 0, which a logarithmic axis has not.
        pairs = [k for k in range(len(sizes)) if column == "cosine" or predicted[k] > 0]
        colour, marker = colours[step], _MARKERS[i % len(_MARKERS)]
        panel.plot([sizes[k] for k in pairs], [predicted[k] for k in pairs], color=colour, linewidth=1.4)
        panel.plot([sizes[k] for k in pairs], [means[k] for k in pairs], marker, color=colour, markersize=5)
        low, high = ([of(values[k]) for k in pairs] for of in (min, max))
        panel.vlines([sizes[k] for k in pairs], low, high, color=colour, linewidth=1)
        all_sizes += sizes
        all_values += [means[k] for k in pairs]
    scale(panel, "x", all_sizes, 1)
    swept_ticks(panel, all_sizes)
    if column == "error":
        scale(panel, "y", all_values, 1)
        panel.axhline(1, color=QUIET, linewidth=0.9, zorder=1)


def _layers_picture(found: Sequence[Points]) -> Picture:
    shown, steps = found[:_MOST_GROUPS], sorted({step for points in found for step in points.steps})
    colours = dict(zip(steps, _colours(steps), strict=True))
    handles, labels = _legend_of(steps, colours)

    def draw(medium: Medium) -> Figure:
        made, panels = figure(len(shown), 1, 3.0 * len(shown), labels, medium)
        for panel, points in zip(panels, shown, strict=True):
            names: list[str] = []
            for step in points.steps:
                names, values = points.at(step, "gradient")
                means, marker = [fmean(value) for value in values], _MARKERS[steps.index(step) % len(_MARKERS)]
                panel.plot(range(len(names)), means, marker, color=colours[step], markersize=6)
            every = [value for of in points.values.values() for value in of["gradient"]]
            scale(panel, "y", [value for value in every if value > 0], 8)
            crowded = sum(len(name) + 2 for name in names) > 0.8 * medium.letters
            panel.set_xticks(
                range(len(names)), names, rotation=35 if crowded else 0, ha="right" if crowded else "center"
            )
            panel.set_ylabel("root mean square\nof a gradient's numbers")
            panel.set_title(_titled(points, len(found)), loc="left", fontsize=10.5)
        legend(made, handles, labels, medium)
        return made

    title = f"How large the gradient is in each layer: {plain(float(f'{_ratio(shown):.2g}'))} times apart"
    notes = (
        "The gradient of all training samples, from the first layer to the last; means over seeds. The title's number "
        "is the largest ratio of two parameters at the same step. One rate for all moves those with small gradients "
        "little; Rprop, which looks at signs alone (Riedmiller & Braun 1993), moves all alike."
    )
    return picture("gradient_layers", title, notes, title, draw)


def _ratio(found: Sequence[Points]) -> float:
    """The largest, of two layers' gradients at the same step."""
    ratios = [1.0]
    for points in found:
        for step in points.steps:
            means = [mean for value in points.at(step, "gradient")[1] if (mean := fmean(value)) > 0]
            ratios.append(max(means) / min(means))
    return max(ratios)


def _legend_of(steps: Sequence[int], colours: dict[int, Any]) -> tuple[list[Any], list[str]]:
    handles: list[Any] = [
        Line2D([], [], color=colours[step], marker=_MARKERS[i % len(_MARKERS)], linestyle="none", markersize=6)
        for i, step in enumerate(steps)
    ]
    return handles, [f"after {step:,} steps" if step else "before the first step" for step in steps]


def _titled(points: Points, groups: int) -> str:
    seeds = f"{points.runs} seed{'s' if points.runs != 1 else ''}"
    return f"{points.group.label}, {seeds}" if groups > 1 else seeds
