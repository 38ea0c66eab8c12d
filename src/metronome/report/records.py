"""Runs on disk: where they are, and what can be read of each. Damage is noted, and never stops the reading."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metronome.report.events import Curve, read_curves
from metronome.report.step_table import StepTable
from metronome.runs.monitored import mode_in, monitored_in
from metronome.runs.names import CONFIG_FILE, PLAN_FILE, REPORT_FILE, RESULT_FILE
from metronome.runs.nested import below
from metronome.runs.order import place_in, read_order
from metronome.units import InputError

UNFINISHED = "unfinished"  # it runs, or was cut off: it has left no result

_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is there
_VALIDATED = "val/loss"


@dataclass(eq=False)
class RunRecord:
    """What a run has left on disk: empty where there is nothing, or nothing that can be read.

    `name` is the folder seen from the one that all runs are in. `problems` says what was not read, and why. A run that
    is read from a summary.csv has no curves, but its `measures` and, for each value of its target that it came to, its
    `hits`.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    result: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    step_table: StepTable | None = None
    problems: list[str] = field(default_factory=list)
    order: int | None = None  # its place among the runs of its sweep, where that was drawn
    measures: dict[str, float | None] | None = None
    hits: dict[float, Any] = field(default_factory=dict)
    hits_of: str = ""  # what its hits are of, as `Target.words` says it; nothing where it is the metric monitored

    @property
    def status(self) -> str:
        """finished, stopped or failed; unfinished for a run that has left no result."""
        return str(self.result.get("status", UNFINISHED))

    @property
    def experiment(self) -> str:
        return str(self.config.get("experiment"))

    @property
    def seed(self) -> str:
        return str(self.config.get("seed"))

    @property
    def error(self) -> str:
        return str(self.result.get("error", ""))

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric by its name; those of a run without a result are the last of its curves."""
        given = self.result.get("metrics")
        found = given if isinstance(given, dict) else {}
        last = {} if self.result else {tag: curve.values[-1] for tag, curve in self.curves.items() if "/" in tag}
        numbers = {str(name): number(value) for name, value in (last | found).items() if not is_rate(str(name))}
        return {name: value for name, value in numbers.items() if value is not None}

    @property
    def steps(self) -> int | None:
        """Steps done, as the run counted them, or as far as its curves go."""
        counted = number(below(self.result, "progress", "steps"))
        if counted is not None:
            return int(counted)
        trained = [int(curve.steps[-1]) for tag, curve in self.curves.items() if not tag.startswith("test/")]
        return max(trained, default=None)

    @property
    def train_seconds(self) -> float | None:
        """Seconds of training: without validations, checkpoints and what is before the first step.

        Of a run in several starts, whose result has those of the last alone, all samples at the speed of the last.
        """
        seconds = number(below(self.result, "seconds", "train"))
        speed = number(below(self.result, "samples_per_second"))
        samples = number(below(self.result, "progress", "samples"))
        if seconds and below(self.result, "resumed_from") and samples and speed:
            return samples / speed
        return seconds or None

    @property
    def ends_at_a_target(self) -> bool:
        """Whether it ends where it has what was asked of it: its best value then says where that was."""
        callbacks = below(self.config, "callbacks")
        made = [below(entry, "_target_") for entry in callbacks.values()] if isinstance(callbacks, dict) else []
        return any(str(target).endswith(".StopAtTarget") for target in made)

    @property
    def memory_is_own(self) -> bool:
        """Whether its memory is that of this run alone; a process that has made other runs keeps some of theirs."""
        own = self.result.get("peak_memory_is_own")
        return own if isinstance(own, bool) else not self.config.get("in_sweep")

    @property
    def monitor(self) -> str | None:
        """The metric that decides which checkpoint is best; where none does, the one that the configuration names, else
        the loss of the validation."""
        name = below(self.result, "best", "monitor") or monitored_in(self.config)[0]
        if name is not None:
            return str(name)
        others = (self.config.get("monitor"), _VALIDATED)
        return next((str(name) for name in others if name in self.curves or name in self.metrics), None)

    @property
    def best_is_low(self) -> bool:
        """Whether a low value of it is a good one."""
        name = self.monitor
        return name is None or (below(self.result, "best", "mode") or mode_in(self.config, name)) != "max"


def monitor_of(runs: list[RunRecord]) -> tuple[str | None, bool]:
    """The metric that most runs monitor, and whether a low value of it is a good one."""
    names = Counter(run.monitor for run in runs if run.monitor is not None)
    if not names:
        return None, True
    name = names.most_common(1)[0][0]
    return name, Counter(run.best_is_low for run in runs if run.monitor == name).most_common(1)[0][0]


def read_runs(paths: Iterable[Path]) -> tuple[list[RunRecord], list[str]]:
    """All runs in these folders, ordered by their names, and what of the folders was not read, and why.

    Raises:
        InputError: if a path is no folder, or there is no run in any.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise InputError(f"no folder {path}; give that of a run, of a sweep, or one above, e.g. runs")
        if not path.is_dir():
            raise InputError(f"{path} is a file; give the folder of a run, of a sweep, or one above, e.g. runs")
    folders = sorted({folder.resolve() for path in paths for folder in _folders(path)})
    above = common_folder(paths)
    runs: list[RunRecord] = []
    unread: list[str] = []
    for folder in folders:
        name = os.path.relpath(folder, above.resolve())
        try:
            config = _config(folder / CONFIG_FILE)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            unread.append(f"{name}: {_why(folder / CONFIG_FILE, error)}")
            continue
        if config is not None:
            runs.append(_read(folder, folder.name if name == "." else name, config))
    if not runs:
        where = ", ".join(map(str, paths))
        also = f" ({unread[0]})" if unread else ""
        raise InputError(
            f"no run in {where}{also}: the folder of a run holds {CONFIG_FILE}; make one with "
            "python scripts/train.py +experiment=digits"
        )
    return runs, unread


def common_folder(paths: Iterable[Path]) -> Path:
    """The folder that all paths are, or lie in."""
    paths = list(paths)
    return paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.absolute() for path in paths]))


def _folders(path: Path) -> Iterator[Path]:
    """Folders that may hold a run: nothing lies in a run but what is its own, and reports hold none."""
    for folder, inner, files in os.walk(path):
        if REPORT_FILE in files:
            inner.clear()
        elif CONFIG_FILE in files:
            yield Path(folder)
            if RESULT_FILE in files or PLAN_FILE in files:
                inner.clear()


def _read(folder: Path, name: str, config: dict[str, Any]) -> RunRecord:
    run = RunRecord(folder, name, config)
    run.result = _json(run, RESULT_FILE)
    run.plan = _json(run, PLAN_FILE) or (below(run.result, "plan") or {})
    run.curves, problems = read_curves(folder)
    run.problems += problems
    given = below(run.result, "overrides") or config.get("overrides")
    run.order = place_in(read_order(folder.parent), given if isinstance(given, list) else [])
    if run.plan:
        try:
            run.step_table = StepTable.of(run.plan, config, least_steps=run.steps or 0)
        except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
            run.problems.append(f"{PLAN_FILE}: {_line(error)}")
    return run


def _config(path: Path) -> dict[str, Any] | None:
    """The configuration of a run; None for one of something else, which other programs keep under this name too."""
    config = yaml.load(path.read_text(), _YamlLoader)  # a safe one
    if config is None:
        raise ValueError("it is empty")
    return config if isinstance(config, dict) and "experiment" in config else None


def _json(run: RunRecord, name: str) -> dict[str, Any]:
    path = run.folder / name
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no table of names and values")
    except (OSError, ValueError, RecursionError) as error:
        run.problems.append(_why(path, error))
        return {}
    return content


def _why(path: Path, error: Exception) -> str:
    return f"{path.name}: {error.strerror if isinstance(error, OSError) and error.strerror else _line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_rate(tag: str) -> bool:
    """Whether a scalar is a learning rate, of all parameters or of a group of them."""
    return tag == "lr" or tag.startswith("lr/")


def number(value: Any) -> float | None:
    """A number of a result, where `nan` and `inf` are written as words; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float(value) if hasattr(value, "dtype") else None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
