"""Runs as a summary.csv tells of them: without their curves, but with all results, so that a report of them can be made
again where the runs are not."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metronome.report.answers import TIMES
from metronome.report.differences import NOT_THERE
from metronome.report.records import RunRecord, number
from metronome.report.summary import MEASURES
from metronome.report.targets import Hit
from metronome.units import InputError, direction_of

_ABOUT = ("run", "experiment", "status", "seed", "order")
_WORDS = ("mode", "target", "error")
_TIME = re.compile(rf"({'|'.join(TIMES)})_to_(.+)_(after|by)")


def is_summary(path: Path) -> bool:
    """Whether a path is to be read as a summary.csv, and not as a folder of runs."""
    return path.suffix == ".csv" and not path.is_dir()


def read_summary(path: Path) -> list[RunRecord]:
    """The runs in a summary.csv, a row each.

    Raises:
        InputError: if it cannot be read, or is no summary of runs.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            head, *rows = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {path}: {why}; give the summary.csv of a report") from error
    missing = [name for name in ("run", "experiment", "status", "seed", "monitor", "error") if name not in head]
    if missing:
        raise InputError(f"{path} is no summary of runs: no column {missing[0]}; give the summary.csv of a report")
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(head)), None)
    if wrong is not None or not rows:
        what = "has no row" if wrong is None else f"has a row with {len(rows[wrong])} of {len(head)} cells"
        raise InputError(f"{path} {what}; give the summary.csv of a report")
    if twice := next((row for i, row in enumerate(rows) if row in rows[:i]), None):
        raise InputError(
            f"{path} has the run {twice[head.index('run')]} twice, and would count it as two; take one out"
        )
    return [_run(path, head, row) for row in rows]


def _run(path: Path, head: Sequence[str], row: Sequence[str]) -> RunRecord:
    cells = dict(zip(head, row, strict=True))
    keys = [name for name in head[: head.index("monitor")] if name not in _ABOUT]
    after = head[head.index("monitor") + 1 :]
    measured = {name: number(cells[name]) for name in after if name not in _WORDS and not _TIME.fullmatch(name)}
    monitor, error = cells["monitor"], cells["error"]
    result: dict[str, Any] = {
        "status": cells["status"],
        "overrides": [f"{key}={cells[key]}" if cells[key] != NOT_THERE else f"~{key}" for key in keys],
        "metrics": {name: value for name, value in measured.items() if value is not None and name not in MEASURES},
        "progress": {"steps": measured.get("steps"), "samples": measured.get("samples")},
        "seconds": {"train": measured.get("train_seconds")},
        "peak_memory_is_own": measured.get("peak_memory_MB") is not None,
        "error": error,
    }
    mode = cells.get("mode") or direction_of(monitor)
    config = {
        "experiment": cells["experiment"],
        "seed": cells["seed"],
        "callbacks": {"checkpoint": {"monitor": monitor or None, "mode": mode}},
    }
    plan = {"batch_size": _whole(measured)}
    order = number(cells.get("order", ""))
    return RunRecord(
        path.parent / cells["run"], cells["run"], config, result, plan, order=None if order is None else int(order),
        measures=measured, hits=_hits(cells, after), hits_of=cells.get("target", ""),
    )  # fmt: skip


def _whole(measured: dict[str, float | None]) -> int | None:
    """The samples of an epoch, which are the batch of a run whose batch is the whole data set."""
    samples, epochs = measured.get("samples"), measured.get("epochs")
    return round(samples / epochs) if samples and epochs else None


def _hits(cells: dict[str, str], names: Sequence[str]) -> dict[float, Hit]:
    """Of each target that a run came to, its intervals."""
    ends: dict[float, dict[str, dict[str, float]]] = {}
    for name in names:
        if (found := _TIME.fullmatch(name)) and (at := number(cells[name])) is not None:
            axis, value, which = found.groups()
            ends.setdefault(float(value), {"after": {}, "by": {}})[which][axis] = at
    return {value: Hit(of["after"], of["by"], confirmed=True) for value, of in ends.items() if of["after"] and of["by"]}
