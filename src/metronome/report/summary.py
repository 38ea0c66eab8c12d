"""The numbers of each run, their mean over seeds, and summary.csv."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from metronome.report.differences import Differences
from metronome.report.records import RunRecord, dig, monitor_of, number

# What is measured of every run: its name with its unit, as in summary.csv, its heading, and what it means.
MEASURES = {
    "best_value": ("best", "best value of the monitored metric"),
    "best_step": ("best at step", "steps done when the metric was best"),
    "gap_accuracy": ("gap acc", "train accuracy of the last epoch less test accuracy"),
    "gap_loss": ("gap loss", "test loss less mean train loss of the last epoch"),
    "roughness": (
        "roughness",
        "of the logged train/loss: standard deviation of the differences between neighbours over the second half of "
        "the run, by the square root of 2; for noise without a trend it is the noise's standard deviation",
    ),
    "best_epoch": ("epoch of best", "epochs done when val/loss (or what is monitored) was least (or best)"),
    "steps": ("steps", "steps (parameter updates) done"),
    "epochs": ("epochs", "epochs done, the last with the part of its samples that was seen"),
    "samples": ("samples", "samples seen"),
    "fit_seconds": (
        "fit, s",
        "seconds of training with its validations; of a run in several starts all, at the speed of the last",
    ),
    "seconds_per_epoch": ("s / epoch", "seconds of training by epochs done"),
    "samples_per_second": ("samples / s", "samples seen by seconds of training, validations included"),
    "peak_memory_MB": ("memory, MB", "peak memory of the process, or of the GPU where one was used, in 10^6 bytes"),
}
_BEFORE_METRICS = ("best_value",)  # what was reached comes before what it took
_STAGES = ("train/", "val/", "test/")


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
    metrics = dict(run.metrics)
    if "train/loss_epoch" in metrics:
        metrics.pop("train/loss", None)
    metrics = {name: value for name, value in metrics.items() if name not in ("epoch", "hp_metric", *MEASURES)}
    steps = run.steps
    samples = number(dig(run.result, "progress", "samples"))
    epochs = number(dig(run.result, "progress", "epochs"))
    if run.step_table is not None and steps is not None:
        epochs = float(run.step_table.epochs_at(steps))
        samples = float(run.step_table.samples_at(steps)) if samples is None else samples
    speed = number(dig(run.result, "samples_per_second"))
    seconds = number(dig(run.result, "seconds", "fit"))
    if dig(run.result, "resumed_from") and samples and speed:
        seconds = samples / speed  # the result knows the seconds of its last start alone
    memory = number(dig(run.result, "peak_memory_bytes"))
    train_loss, test_loss = metrics.get("train/loss_epoch", metrics.get("train/loss")), metrics.get("test/loss")
    # A run that keeps no best checkpoint, or has not ended, has its curve.
    seen = None if dig(run.result, "best") else best_point(run, run.monitor)
    best = (number(dig(run.result, "best", "step")), number(dig(run.result, "best", "value"))) if seen is None else seen
    row: dict[str, float | None] = {
        "steps": steps,
        "epochs": epochs,
        "samples": samples,
        "fit_seconds": seconds if steps else None,
        "seconds_per_epoch": seconds / epochs if seconds and epochs else None,
        "samples_per_second": speed,
        "peak_memory_MB": None if memory is None else memory / 1e6,
        "best_value": best[1],
        "best_step": best[0],
        "gap_accuracy": _difference(metrics.get("train/acc"), metrics.get("test/acc")),
        "gap_loss": _difference(test_loss, train_loss),
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
    if curve is None or not np.isfinite(curve.values).any():
        return None
    is_low = tag == "val/loss" or run.best_is_low
    values = np.where(np.isfinite(curve.values), curve.values, math.inf if is_low else -math.inf)
    i = int(np.argmin(values) if is_low else np.argmax(values))
    return int(curve.steps[i]), float(values[i])


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation (with n - 1) of several values."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def to_csv(summary: Summary) -> str:
    """One row a run: its folder, what it is, how it ended, and every measure in plain units."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [key for key in summary.differences.keys if key != "experiment"]
    about = ["run", "experiment", "status", "seed", *keys, "monitor"]
    writer.writerow([*about, *(column.name for column in summary.columns), "error"])
    values = {id(run): group.values for group in summary.differences.groups for run in group.runs}
    for i, run in enumerate(summary.runs):
        given = [values[id(run)][key] for key in keys]
        numbers = ["" if (v := column.values[i]) is None else _plain(v) for column in summary.columns]
        writer.writerow(
            [run.name, run.experiment, run.status, run.seed, *given, run.monitor or "", *numbers, run.error]
        )
    return text.getvalue()


def _plain(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.7g}"


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _stage(name: str) -> tuple[int, bool, str]:
    """Training before validation before test, the rest last; the loss first in each."""
    stage = next((i for i, stage in enumerate(_STAGES) if name.startswith(stage)), len(_STAGES))
    return stage, "loss" not in name, name
