"""In which order the jobs of a sweep are made: drawn once, kept in its folder."""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from metronome.runs.names import ORDER_FILE
from metronome.runs.overrides import key_and_value, what_it_is


def write_order(folder: Path, seed: int, jobs: Sequence[Sequence[str]]) -> None:
    """Keep the order of the jobs, each a list of overrides, and the number that it was drawn from."""
    folder.mkdir(parents=True, exist_ok=True)
    order = {"drawn_from": seed, "jobs": [what_it_is(job) for job in jobs]}
    (folder / ORDER_FILE).write_text(json.dumps(order, indent=1) + "\n")


def order_of(jobs: Iterable[Iterable[str]]) -> list[frozenset[tuple[str, str]]]:
    """Jobs, each a list of overrides, as `place_in` takes them."""
    return [_words(what_it_is(job)) for job in jobs]


@cache
def read_order(folder: Path) -> list[frozenset[tuple[str, str]]]:
    """The jobs of the sweep in a folder, in the order in which they are made; none where it was not kept."""
    try:
        jobs = json.loads((folder / ORDER_FILE).read_text())["jobs"]
        return [_words(job) for job in jobs]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def place_in(order: Sequence[frozenset[tuple[str, str]]], overrides: Iterable[str]) -> int | None:
    """The place in the order, from 1 on, of a job of these overrides.

    A job may say all that another one says and something more; so of those that say nothing else, the one that says
    most.

    >>> order = [_words(["seed=1"]), _words(["seed=0"]), _words(["seed=1", "optimizer.nesterov=true"])]
    >>> place_in(order, ["+study=momentum", "seed=1"]), place_in(order, ["optimizer.nesterov=true", "seed=1"])
    (1, 3)
    """
    given = _words(overrides)
    said = [(len(job), -i) for i, job in enumerate(order) if job <= given]
    return 1 - max(said)[1] if said else None


def _words(overrides: Iterable[str]) -> frozenset[tuple[str, str]]:
    return frozenset(key_and_value(str(override)) for override in overrides)
