"""Which values of a sweep are the best, by what its runs have monitored: over seeds, by their mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metronome.runs.monitored import mode_in
from metronome.runs.names import CONFIG_FILE
from metronome.runs.overrides import key_and_value
from metronome.runs.sweeps import own_overrides

_OTHER_DATA = ("experiment", "data")  # of which a loss is not to be compared


@dataclass(frozen=True)
class Best:
    """The best of some runs: its overrides, and what it came to.

    Attributes:
        overrides: those that are not of all runs of the sweep; without the seed where there are several.
        values: of the monitored metric, one a seed.
        run: its folder, if it is one run.
    """

    overrides: list[str]
    monitor: str
    values: tuple[float, ...]
    run: Path | None

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


def best_of(sweep: Path, runs: Sequence[tuple[Path, dict[str, Any]]]) -> Best | str:
    """Of finished runs of a sweep, each its folder and what its result.json says, the best. In words, why there is none
    where they cannot be compared; no words where none monitors anything."""
    judged = [(folder, result) for folder, result in runs if result.get("best")]
    own = [own_overrides(result["overrides"], sweep) for _, result in judged]
    if not judged:
        return ""
    for name in _OTHER_DATA:
        if len({value for words in own for key, value in map(key_and_value, words) if key == name}) > 1:
            return f"the runs differ in {name}"
    aims = {(result["best"]["monitor"], direction_of(folder, result)) for folder, result in judged}
    if len(aims) > 1:
        told = ", ".join(sorted(f"{monitor} ({mode})" for monitor, mode in aims))
        return f"the runs monitor different things: {told}"
    ((monitor, mode),) = aims
    varies_seed = len({word for words in own for word in words if _is_seed(word)}) > 1
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, words in enumerate(own):
        groups.setdefault(tuple(w for w in words if not (varies_seed and _is_seed(w))), []).append(i)
    found = [
        Best(
            overrides=list(words),
            monitor=monitor,
            values=tuple(float(judged[i][1]["best"]["value"]) for i in of_group),
            run=judged[of_group[0]][0] if len(of_group) == 1 and not varies_seed else None,
        )
        for words, of_group in groups.items()
    ]
    return min(found, key=lambda best: _rank(best.mean, mode))


def direction_of(folder: Path, result: dict[str, Any]) -> str:
    """`min` or `max`: which way the monitored metric of a run is the better."""
    if mode := result["best"].get("mode"):
        return mode
    try:
        config = yaml.safe_load((folder / CONFIG_FILE).read_text())
    except (OSError, yaml.YAMLError):
        config = None
    return mode_in(config if isinstance(config, dict) else {}, result["best"]["monitor"]) or "min"


def _rank(value: float, mode: str) -> float:
    if math.isnan(value):
        return math.inf
    return -value if mode == "max" else value


def _is_seed(override: str) -> bool:
    return key_and_value(override)[0] == "seed"
