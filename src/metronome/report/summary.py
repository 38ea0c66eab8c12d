"""The numbers of each run, their mean over seeds, and summary.csv."""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from metronome.report.differences import Differences, Group
from metronome.report.records import RunRecord, monitor_of, number
from metronome.report.ties import best_of, same
from metronome.runs.nested import below
from metronome.units import direction_of

# What is measured of every run: its name with its unit, as in summary.csv, its heading, and what it means.
MEASURES = {
    "best_value": ("best", "best value of the monitored metric"),
    "best_step": ("best at step", "steps done when the metric was best"),
    "gap_accuracy": ("gap acc", "accuracy on the training set less test accuracy, both at the weights that are tested"),
    "gap_loss": ("gap loss", "test loss less loss on the training set, both at the weights that are tested"),
    "roughness": (
        "roughness",
        "of the logged train/loss: standard deviation of the differences between neighbours over the second half of "
        "the run, by the square root of 2; for noise without a trend it is the noise's standard deviation",
    ),
    "best_epoch": ("epoch of best", "epochs done when val/loss (or what is monitored) was least (or best)"),
    "steps": ("steps", "steps (parameter updates) done"),
    "epochs": ("epochs", "epochs done, the last with the part of its samples that was seen"),
    "samples": ("samples", "samples seen"),
    "train_seconds": (
        "train, s",
        "seconds of training: without validations, checkpoints and what is before the first step; of a run in several "
        "starts all, at the speed of the last",
    ),
    "seconds_per_epoch": ("s / epoch", "seconds of training by epochs done"),
    "samples_per_second": ("samples / s", "samples seen by seconds of training"),
    "peak_memory_MB": (
        "memory, MB",
        "peak memory of the run's own process, or of what it allocated on a GPU where one was used, in 10^6 bytes",
    ),
}
_BEFORE_METRICS = ("best_value",)  # what was reached comes before what it took
_PARTS = {"gap_accuracy": ("train_set/acc", "test/acc"), "gap_loss": ("test/loss", "train_set/loss")}
_STAGES = ("train/", "val/", "test/", "train_set/")


@dataclass(frozen=True)
class Column:
    """A measure of all runs: `values` has one entry a run, None where it has none."""

    name: str
    title: str
    meaning: str
    values: list[float | None]


@dataclass(frozen=True)
class Summary:
    """All runs in numbers: `rows` by the id of the run, columns with a value anywhere, and what was monitored."""

    runs: list[RunRecord]
    differences: Differences
    monitor: str | None
    best_is_low: bool
    columns: list[Column]
    rows: dict[int, dict[str, float | None]]

    def values(self, name: str, runs: Iterable[RunRecord]) -> list[float]:
        """The finite values of a measure in these runs."""
        found = (self.rows[id(run)].get(name) for run in runs)
        return [value for value in found if value is not None and math.isfinite(value)]

    def is_the_same(self, name: str, groups: Iterable[Group]) -> bool:
        """Whether a measure has one mean in all groups that have it, within rounding; a difference has, where both of
        its parts do: its own rounding is theirs, and large beside it."""
        if name in _PARTS:
            return all(self.is_the_same(part, groups) for part in _PARTS[name])
        means = [fmean(values) for group in groups if (values := self.values(name, group.measured))]
        return all(same(mean, means[0]) for mean in means)

    def bests(self, group: Group, metric: str | None = None, is_low: bool | None = None) -> list[float]:
        """The best value of a metric in each run that stands for a group; of the one that is monitored, if not said.
        All figures and tables mean this one, and the mean of these."""
        if metric is None or metric == self.monitor:
            return self.values("best_value", group.measured)
        low = self.best_is_low if is_low is None else is_low
        found = [run.curves[metric].values for run in group.measured if metric in run.curves]
        finite = [values[np.isfinite(values)] for values in found]
        return [float(values.min() if low else values.max()) for values in finite if len(values)]

    def best_groups(
        self, groups: Iterable[Group], metric: str | None = None, is_low: bool | None = None
    ) -> tuple[list[float], list[str], list[str]] | None:
        """Which groups have the best mean of `bests`: the values of one of them, the labels of all that are tied, and
        those of all. None with fewer than two groups, and where runs end at a target, as all of them come to it."""
        if any(run.ends_at_a_target for run in self.runs):
            return None
        low = self.best_is_low if is_low is None else is_low
        found = [(group.label, values) for group in groups if (values := self.bests(group, metric, low))]
        if len(found) < 2:
            return None
        _, names = best_of([(fmean(values), label) for label, values in found], low)
        return dict(found)[names[0]], names, [label for label, _ in found]


def summarize(runs: list[RunRecord], differing: Differences) -> Summary:
    """Measure all runs. Columns without a value anywhere are left out."""
    monitor, best_is_low = monitor_of(runs)
    rows = [measure(run) for run in runs]
    metrics = sorted({name for row in rows for name in row if name not in MEASURES}, key=_stage)
    after = [name for name in MEASURES if name not in _BEFORE_METRICS]
    columns: list[Column] = []
    for name in (*_BEFORE_METRICS, *metrics, *after):
        title, meaning = MEASURES.get(name, (name, f"{name} as the run logged it last"))
        values = [row.get(name) for row in rows]
        if any(value is not None for value in values):
            columns.append(Column(name, f"best {monitor}" if name == "best_value" else title, meaning, values))
    return Summary(
        runs, differing, monitor, best_is_low, columns, {id(run): row for run, row in zip(runs, rows, strict=True)}
    )


def measure(run: RunRecord) -> dict[str, float | None]:
    """Each measure of a run that it has, and all its metrics; of `train/loss` the mean of the epoch if it is there."""
    if run.measures is not None:
        return dict(run.measures)
    metrics = dict(run.metrics)
    if "train/loss_epoch" in metrics:
        metrics.pop("train/loss", None)
    metrics = {name: value for name, value in metrics.items() if name not in ("epoch", "hp_metric", *MEASURES)}
    steps = run.steps
    samples = number(below(run.result, "progress", "samples"))
    epochs = number(below(run.result, "progress", "epochs"))
    if run.step_table is not None and steps is not None:
        epochs = float(run.step_table.epochs_at(steps))
        samples = float(run.step_table.samples_at(steps)) if samples is None else samples
    seconds = run.train_seconds
    memory = number(below(run.result, "peak_memory_bytes")) if run.memory_is_own else None
    # A run that keeps no best checkpoint, or has not ended, has its curve.
    seen = None if below(run.result, "best") else best_point(run, run.monitor)
    step, value = (number(below(run.result, "best", name)) for name in ("step", "value"))
    best = (step, value) if seen is None else seen
    row: dict[str, float | None] = {
        "steps": steps,
        "epochs": epochs,
        "samples": samples,
        "train_seconds": seconds if steps else None,
        "seconds_per_epoch": seconds / epochs if seconds and epochs else None,
        "samples_per_second": None if seconds is None else number(below(run.result, "samples_per_second")),
        "peak_memory_MB": None if memory is None else memory / 1e6,
        "best_value": best[1],
        "best_step": best[0],
        "gap_accuracy": _difference(metrics.get("train_set/acc"), metrics.get("test/acc")),
        "gap_loss": _difference(metrics.get("test/loss"), metrics.get("train_set/loss")),
        "roughness": roughness(run),
        "best_epoch": best_epoch(run),
    }
    return row | metrics


def roughness(run: RunRecord) -> float | None:
    """How much the logged train/loss jumps from one value to the next, over the second half of the run.

    The standard deviation of the differences between neighbours, by the square root of 2: for values that are
    independent, with the same spread around a level, it is that spread, and a slow trend adds next to nothing to it.
    None with fewer than three differences, or values that are not finite.
    """
    curve = run.curves.get("train/loss")
    if curve is None:
        return None
    values = curve.values[curve.steps > curve.steps[-1] / 2]
    if len(values) < 4 or not np.isfinite(values).all():
        return None
    return float(np.std(np.diff(values), ddof=1) / math.sqrt(2))


def best_epoch(run: RunRecord) -> float | None:
    """Epochs done where val/loss was least, or where there is none, what is monitored was best."""
    point = best_point(run)
    return None if point is None or run.step_table is None else float(run.step_table.epochs_at(point[0]))


def best_point(run: RunRecord, of: str | None = None) -> tuple[int, float] | None:
    """The step and the value of the best of a metric; of the least val/loss, or of what is monitored, if not said."""
    tag = of or ("val/loss" if "val/loss" in run.curves else run.monitor)
    curve = run.curves.get(tag or "")
    if tag is None or curve is None or not np.isfinite(curve.values).any():
        return None
    is_low = run.best_is_low if tag == run.monitor else direction_of(tag) != "max"
    values = np.where(np.isfinite(curve.values), curve.values, math.inf if is_low else -math.inf)
    i = int(np.argmin(values) if is_low else np.argmax(values))
    return int(curve.steps[i]), float(values[i])


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (with n - 1) of several values."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def in_words(values: list[float]) -> str:
    """A mean with its spread and over how many runs: `0.25 ± 0.01, n = 3`.

    >>> in_words([0.24, 0.26]), in_words([0.3])
    ('0.25 ± 0.014, n = 2', '0.3')
    """
    mean, spread = mean_and_spread(values)
    short = f"{float(f'{mean:.4g}'):,.6g}"
    return short + (f" ± {float(f'{spread:.2g}'):,.6g}, n = {len(values)}" if spread is not None else "")


def to_csv(
    summary: Summary, more: Mapping[str, Callable[[RunRecord], float | None]] | None = None, target: str = ""
) -> str:
    """One row a run: its folder, what it is, how it ended, its place in the order in which the runs of its sweep were
    made, and every measure in plain units; then `more` columns, each with its value of a run, and what these are times
    to where that is to be told."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [key for key in summary.differences.keys if key != "experiment"]
    ordered = ["order"] if any(run.order is not None for run in summary.runs) else []
    modes = ["min" if run.best_is_low else "max" for run in summary.runs]
    names = [run.monitor for run in summary.runs]
    is_told = all(name is None or direction_of(name) == mode for name, mode in zip(names, modes, strict=True))
    about = ["run", "experiment", "status", "seed", *ordered, *keys, "monitor", *([] if is_told else ["mode"])]
    more = more or {}
    writer.writerow(
        [*about, *(column.name for column in summary.columns), *more, *(["target"] if target else []), "error"]
    )
    values = {id(run): group.values for group in summary.differences.groups for run in group.runs}
    for i, run in enumerate(summary.runs):
        given = [values[id(run)][key] for key in keys]
        found = [*(column.values[i] for column in summary.columns), *(value_of(run) for value_of in more.values())]
        numbers = ["" if value is None else _plain(value) for value in found]
        place = ["" if run.order is None else run.order] if ordered else []
        is_what = [run.name, run.experiment, run.status, run.seed, *place, *given, run.monitor or ""]
        is_what += [] if is_told else [modes[i]]
        writer.writerow([*is_what, *numbers, *([target] if target else []), run.error])
    return text.getvalue()


def _plain(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.7g}"


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _stage(name: str) -> tuple[int, bool, str]:
    """Training before validation before test, the rest last; the loss first in each."""
    stage = next((i for i, stage in enumerate(_STAGES) if name.startswith(stage)), len(_STAGES))
    return stage, "loss" not in name, name
