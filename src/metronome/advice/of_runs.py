"""The advice for runs on disk."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from metronome.advice.advice import Advice
from metronome.advice.advise import advise
from metronome.advice.text import of_a_run, of_many
from metronome.runs.names import CONFIG_FILE, RESULT_FILE
from metronome.runs.storage.cache import runs_at_hand
from metronome.units import InputError

_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ALL_OF = 5  # runs that are shown whole; of more their symptoms are counted


def advice_of_runs(paths: list[str]) -> str:
    """The advice for all runs in these folders, as text.

    Raises:
        InputError: for a path that is not there, or holds no run that has ended.
    """
    runs = {folder: None for path in paths for folder in _runs(runs_at_hand(path))}
    if not runs:
        raise InputError(
            f"no run that has ended in {', '.join(paths)}: its folder holds {RESULT_FILE}; make one with python "
            "scripts/train.py +experiment=digits"
        )
    found: dict[str, list[Advice]] = {}
    notes: dict[str, str] = {}
    for folder in runs:
        name = os.path.relpath(folder)
        name = str(folder) if name.startswith("..") else name
        try:
            result, config = read(folder)
        except InputError as error:
            if len(runs) == 1:
                raise
            notes[name] = str(error)
            continue
        found[name], notes[name] = advise(result, config), _why_little(result)
    lines: list[str] = []
    if len(found) <= ALL_OF:
        for name, advices in found.items():
            lines += [*of_a_run(name, advices, notes[name]), ""]
    else:
        lines += [*of_many(found), ""]
    lines += [f"not read: {note}" for name, note in notes.items() if name not in found]
    return "\n".join(lines).rstrip()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Result and configuration of a run. Raises InputError for one that cannot be read."""
    try:
        result = json.loads((folder / RESULT_FILE).read_text())
        config = yaml.load((folder / CONFIG_FILE).read_text(), _YamlLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())[:120]
        raise InputError(f"{folder}: result or configuration cannot be read ({words})") from error
    if not isinstance(result, dict) or not isinstance(config, dict):
        raise InputError(f"{folder}: result or configuration hold no names and values")
    return result, config


def _runs(path: Path) -> list[Path]:
    if not path.exists():
        raise InputError(f"no folder {path}; give that of a run, of a sweep, or one above, e.g. runs")
    if path.is_file():
        raise InputError(f"{path} is a file; give the folder of a run, of a sweep, or one above, e.g. runs")
    return sorted(file.parent for file in path.rglob(RESULT_FILE) if (file.parent / CONFIG_FILE).is_file())


def _why_little(result: dict[str, Any]) -> str:
    watched = result.get("watched")
    if not isinstance(watched, dict):
        return "it was made with callbacks=none, or by an older version: little of it is known"
    reason = watched.get("no_gradients")
    return f"no gradients were looked at: {reason}" if reason else ""
