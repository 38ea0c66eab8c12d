"""What a study asks: the words of its question, the targets of its runs, what is tuned and what is no answer."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metronome.runs.names import STUDY_FILE
from metronome.units import InputError, direction_of
from metronome.units.direction import MODES

_MOST_CONFIRMED = 1_000


@dataclass(frozen=True)
class Target:
    """Values of a metric that runs are to come to, the easiest first.

    Attributes:
        metric: as it is logged.
        values: the easiest first.
        best_is_low: whether a low value is a good one.
        confirm: validations in a row, the first included, that must have it.
    """

    metric: str
    values: tuple[float, ...]
    best_is_low: bool = True
    confirm: int = 1

    @property
    def words(self) -> str:
        """All but the values: `min, 3 in a row: val/loss`."""
        return f"{'min' if self.best_is_low else 'max'}, {self.confirm} in a row: {self.metric}"

    @classmethod
    def of_words(cls, words: str, values: Iterable[float]) -> "Target":
        """Back from `words`.

        Raises:
            InputError: if these say no target.
        """
        if (found := re.fullmatch(r"(min|max), ([1-9]\d{0,3}) in a row: (.+)", words)) is None:
            raise InputError(f"target={words!r} is none; it reads as 'min, 3 in a row: val/loss'")
        low = found[1] == "min"
        return cls(found[3], tuple(sorted(values, reverse=low)), low, int(found[2]))


@dataclass(frozen=True)
class Asking:
    """What a study asks.

    Attributes:
        question: in words.
        target: that its runs are to come to, if any.
        tune: the key of a value that is no answer, but is tuned: of each setting of the others the best of it is taken.
        isolate: whether each of its runs has a process of its own, so that its memory can be told.
    """

    question: str = ""
    target: Target | None = None
    tune: str | None = None
    isolate: bool = False

    @classmethod
    def of(cls, node: Any) -> "Asking":
        """From the `study` of a configuration, in plain containers; none is nothing asked.

        Raises:
            InputError: for a name or a value that is none.
        """
        if node is None:
            return cls()
        _check_names("study", node, ("question", "target", "tune", "isolate"))
        question, tune, isolate = node.get("question") or "", node.get("tune"), node.get("isolate", False)
        if not isinstance(isolate, bool):
            raise InputError(f"study.isolate={isolate!r} is neither true nor false")
        if tune is not None and not isinstance(tune, str):
            raise InputError(f"study.tune={tune!r} is not a key such as optimizer.lr")
        return cls(" ".join(str(question).split()), _target(node.get("target")), tune, isolate)


def write_asking(folder: Path, name: str, node: Any) -> None:
    """Keep what a study asks in the folder of its sweep."""
    (folder / STUDY_FILE).write_text(json.dumps({"name": name, "study": node}, indent=1) + "\n")


def read_asking(folder: Path) -> Asking | None:
    """What the study in a folder asks; None where there is none, or nothing that can be read."""
    try:
        return Asking.of(json.loads((folder / STUDY_FILE).read_text())["study"])
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def asked_before(folder: Path) -> Any:
    """The `study` that a sweep's folder was begun with, as it was written; None where there is none."""
    try:
        return json.loads((folder / STUDY_FILE).read_text())["study"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _target(node: Any) -> Target | None:
    if node is None:
        return None
    _check_names("study.target", node, ("metric", "values", "mode", "confirm"))
    values, mode, confirm = node.get("values"), node.get("mode"), node.get("confirm", 1)
    values = list(values) if isinstance(values, list | tuple) else [values]
    if not values or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise InputError(f"study.target.values={values} are not numbers such as [0.54, 0.25]")
    if mode not in (None, *MODES):
        raise InputError(f"study.target.mode={mode} is neither min nor max")
    if not isinstance(confirm, int) or isinstance(confirm, bool) or not 1 <= confirm <= _MOST_CONFIRMED:
        raise InputError(f"study.target.confirm={confirm} is not a number of validations from 1 up")
    if not isinstance(node.get("metric"), str):
        raise InputError("study.target.metric is missing: name what is logged, such as val/loss")
    if (mode := mode or direction_of(node["metric"])) is None:
        raise InputError(
            f"study.target.metric={node['metric']}: whether lower or higher is better cannot be told from its name; "
            "add mode: min or mode: max to study.target"
        )
    low = mode == "min"
    return Target(node["metric"], tuple(sorted(map(float, values), reverse=low)), low, confirm)


def _check_names(where: str, node: Any, known: tuple[str, ...]) -> None:
    if not isinstance(node, Mapping):
        raise InputError(f"{where}={node!r} is not a table of {', '.join(known)}")
    for name in node:
        if name not in known:
            raise InputError(f"{where}.{name} is not known; there are {', '.join(known)}")
