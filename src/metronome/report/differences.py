"""What differs between runs: their overrides, and the groups of runs that differ in nothing but the seed."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metronome.report.records import RunRecord, dig

# Overrides that say how to go on or where to, not what the run is.
_ON_THE_WAY = ("ckpt_path", "resume", "trials", "trials_done", "run_dir")
DEFAULT, NOT_THERE = "default", "–"
_SEPARATE = ("seed", "experiment")
_DECIDING = ("data", "model", "optimizer", "scheduler")  # what a result follows from, beside budget and seed
_MANY_KEYS = 4


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in nothing but the seed, and the values that tell them from the other groups."""

    label: str
    values: dict[str, str]
    runs: list[RunRecord]

    @property
    def measured(self) -> list[RunRecord]:
        """The runs whose numbers stand for the group: the finished ones, without any those that did not fail; of each
        seed the last one, since a run made twice is no second sample."""
        finished = [run for run in self.runs if run.status == "finished"]
        standing = finished or [run for run in self.runs if run.status != "failed"] or self.runs
        return list({run.seed: run for run in standing}.values())


@dataclass(frozen=True)
class Differences:
    """What differs between runs, what they share, and the groups, in the order of their values."""

    keys: list[str]
    shared: list[str]
    groups: list[Group]


def differences(runs: list[RunRecord]) -> Differences:
    """Compare the overrides of runs. A key that a run was not given counts with the value it has there."""
    given = [overrides(run) for run in runs]
    keys = list(dict.fromkeys(key for names in given for key in names if key not in _SEPARATE))
    values = {key: [value_of(run, key, names) for run, names in zip(runs, given, strict=True)] for key in keys}
    differing = [key for key in keys if len(set(values[key])) > 1]
    shared = [f"{key}={values[key][0]}" for key in keys if key not in differing]
    if len({run.experiment for run in runs}) > 1:
        differing.insert(0, "experiment")
        values["experiment"] = [run.experiment for run in runs]
    members = _members(runs, differing, values)
    if unasked := _unasked(members.values()):
        # A file of the configuration has changed between them, and no override says so.
        values |= {key: [value_of(run, key, names) for run, names in zip(runs, given, strict=True)] for key in unasked}
        differing += [key for key in unasked if key not in differing]
        shared = [word for word in shared if word.partition("=")[0] not in differing]
        members = _members(runs, differing, values)
    names, usual = short_names(differing), _usual(differing, list(members))
    groups: list[Group] = []
    rounded = len({tuple(map(shown, group)) for group in members}) == len(members)
    for group in sorted(
        members, key=lambda group: [_order(key, v, members[group]) for key, v in zip(differing, group, strict=True)]
    ):
        told = [
            (names[k], shown(v) if rounded else v)
            for k, v in zip(differing, group, strict=True)
            if k not in usual or v != usual[k]
        ]
        label = ", ".join(f"{name}={value}" for name, value in told) or "most common values"
        if not differing:
            label = members[group][0].experiment
        groups.append(Group(label, dict(zip(differing, group, strict=True)), members[group]))
    return Differences(differing, shared, groups)


def _members(
    runs: list[RunRecord], keys: list[str], values: Mapping[str, list[str]]
) -> dict[tuple[str, ...], list[RunRecord]]:
    """The runs of each combination of values."""
    members: dict[tuple[str, ...], list[RunRecord]] = {}
    for i, run in enumerate(runs):
        members.setdefault(tuple(values[key][i] for key in keys), []).append(run)
    return members


def _unasked(groups: Iterable[list[RunRecord]]) -> list[str]:
    """Keys of what decides a result that differ between runs that were asked for in the same words."""
    found: dict[str, None] = {}
    for runs in groups:
        configs = [_flat(run.config) for run in runs if run.config]
        for key in dict.fromkeys(key for config in configs for key in config):
            if len({text(config.get(key)) for config in configs}) > 1:
                found[key] = None
    return list(found)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(name: str, content: Any) -> None:
        for key, value in content.items() if isinstance(content, dict) else ():
            # The model has a copy of these.
            if isinstance(value, dict) and f"{name}.{key}" not in ("model.optimizer", "model.scheduler"):
                walk(f"{name}.{key}", value)
            elif not isinstance(value, dict):
                flat[f"{name}.{key}"] = value

    for group in _DECIDING:
        walk(group, config.get(group))
    return flat | {"budget": config.get("budget")}


def overrides(run: RunRecord) -> dict[str, str]:
    """What was asked of a run: keys and values, without those that only say how to go on."""
    given = dig(run.result, "overrides") or dig(run.config, "overrides")
    found: dict[str, str] = {}
    for override in given if isinstance(given, list) else []:
        key, _, value = str(override).replace("\\", "").partition("=")
        key = key.lstrip("+~")
        if not key.startswith(("hydra.", "hydra/")) and key not in _ON_THE_WAY:
            found[key] = value.strip("'\"") if not str(override).startswith("~") else NOT_THERE
    return found


def value_of(run: RunRecord, key: str, given: Mapping[str, str]) -> str:
    """The value that a run has for a key of another run's overrides."""
    path = key.split(".")
    here = dig(run.config, *path)
    parent = run.config if len(path) == 1 else dig(run.config, *path[:-1])
    is_value = len(path) > 1 or not isinstance(here, dict | list)  # a group's file is a table, or a list
    if is_value and isinstance(parent, dict) and path[-1] in parent:
        return text(here)
    if key in given:
        return given[key]
    return NOT_THERE if len(path) > 1 else DEFAULT


def text(value: Any) -> str:
    """A value of a configuration as one would type it; equal numbers are equal texts."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return text(float(value)) if _is_number(value) else value
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def number_of(key: str, value: str, run: RunRecord) -> float | None:
    """A differing value as a number; None for a word. The whole data set as one batch counts with its samples."""
    if key == "data.batch_size" and not _is_number(value):
        size = dig(run.plan, "batch_size")
        return float(size) if isinstance(size, int) else None
    return float(value) if _is_number(value) else None


def _usual(keys: list[str], groups: list[tuple[str, ...]]) -> dict[str, str]:
    """The value that most groups have for each key, where the keys are too many to name all: labels leave it out."""
    if len(keys) < _MANY_KEYS:
        return {}
    values = zip(*groups, strict=True)
    return {key: Counter(given).most_common(1)[0][0] for key, given in zip(keys, values, strict=True)}


def shown(value: str) -> str:
    """A value for the eye: numbers that a search has chosen with four digits."""
    if len(value) <= 6 or not _is_number(value) or float(value).is_integer():
        return value
    return f"{float(value):.4g}"


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value)) and "_" not in value
    except ValueError:
        return False


def _order(key: str, value: str, runs: Iterable[RunRecord]) -> tuple[int, float, str]:
    """Numbers by their size, before words by their letters."""
    for run in runs:
        if (size := number_of(key, value, run)) is not None:
            return 0, size, value
    return 1, 0.0, value


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each key, or as much as tells it from the others."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
