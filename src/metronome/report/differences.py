"""What differs between runs: their overrides, and the groups of runs that differ in nothing but the seed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metronome.report.records import RunRecord
from metronome.report.value_text import is_number, short_names, shown, text
from metronome.runs.deciding import deciding
from metronome.runs.nested import below
from metronome.runs.overrides import goes_on, key_and_value

DEFAULT, NOT_THERE = "default", "–"
_SEPARATE = ("seed", "experiment")
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
    return Differences(differing, shared, _groups(differing, members))


def _groups(keys: list[str], members: Mapping[tuple[str, ...], list[RunRecord]]) -> list[Group]:
    """The groups in the order of their values, with labels that tell them apart."""
    names, usual = short_names(keys), _usual(keys, list(members))
    stay_apart = len({tuple(map(shown, values)) for values in members}) == len(members)  # rounded, too

    def order(values: tuple[str, ...]) -> list[tuple[int, float, str]]:
        return [_order(key, value, members[values]) for key, value in zip(keys, values, strict=True)]

    groups: list[Group] = []
    for values in sorted(members, key=order):
        of_keys, runs = dict(zip(keys, values, strict=True)), members[values]
        unusual = [key for key, value in of_keys.items() if key not in usual or value != usual[key]]
        parts = [f"{names[key]}={shown(of_keys[key]) if stay_apart else of_keys[key]}" for key in unusual]
        label = ", ".join(parts) or "most common values"
        groups.append(Group(label if keys else runs[0].experiment, of_keys, runs))
    return groups


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
        configs = [deciding(run.config) for run in runs]
        for key in dict.fromkeys(key for config in configs for key in config):
            is_seed = all(config.get(key) == config.get("seed") for config in configs)  # `data_seed: ${seed}`
            if key not in _SEPARATE and not is_seed and len({text(config.get(key)) for config in configs}) > 1:
                found[key] = None
    return list(found)


def overrides(run: RunRecord) -> dict[str, str]:
    """What was asked of a run: keys and values, without those that only say how to go on."""
    given = below(run.result, "overrides") or below(run.config, "overrides")
    found: dict[str, str] = {}
    for override in given if isinstance(given, list) else []:
        if not goes_on(str(override)):
            key, value = key_and_value(str(override))
            found[key] = NOT_THERE if str(override).startswith("~") else value
    return found


def value_of(run: RunRecord, key: str, given: Mapping[str, str]) -> str:
    """The value that a run has for a key of another run's overrides."""
    path = key.split(".")
    here = below(run.config, *path)
    parent = run.config if len(path) == 1 else below(run.config, *path[:-1])
    is_value = len(path) > 1 or not isinstance(here, dict | list)  # a group's file is a table, or a list
    if is_value and isinstance(parent, dict) and path[-1] in parent:
        return text(here)
    if key in given:
        return given[key]
    return NOT_THERE if len(path) > 1 else DEFAULT


def number_of(key: str, value: str, run: RunRecord) -> float | None:
    """A differing value as a number; None for a word. The whole data set as one batch counts with its samples."""
    if key == "data.batch_size" and not is_number(value):
        size = below(run.plan, "batch_size")
        return float(size) if isinstance(size, int) else None
    return float(value) if is_number(value) else None


def _usual(keys: list[str], groups: list[tuple[str, ...]]) -> dict[str, str]:
    """The value that most groups have for each key, where the keys are too many to name all: labels leave it out."""
    if len(keys) < _MANY_KEYS:
        return {}
    values = zip(*groups, strict=True)
    return {key: Counter(given).most_common(1)[0][0] for key, given in zip(keys, values, strict=True)}


def _order(key: str, value: str, runs: Iterable[RunRecord]) -> tuple[int, float, str]:
    """Numbers by their size, before words by their letters."""
    for run in runs:
        if (size := number_of(key, value, run)) is not None:
            return 0, size, value
    return 1, 0.0, value
