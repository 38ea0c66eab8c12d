"""Runs as several hosts see them: what each tells of the folders on its own disk, and what they come to together.

Imports nothing heavy.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metronome.runs.folders import RunFolder
from metronome.runs.going_on import Asked, RunFound
from metronome.runs.names import STARTED_BY_FILE


@dataclass(frozen=True)
class RunTold:
    """A `RunFound` that travels. `is_ours`: a process that the same torchrun had started worked in it."""

    folder: Path
    overrides: list[str] | None = None
    status: str | None = None
    started: int = 0
    checkpoints: dict[Path, int] = field(default_factory=dict)
    is_ours: bool = False

    @classmethod
    def of(cls, run: RunFound, agent: str) -> "RunTold":
        overrides = run.overrides
        if overrides is None:
            return cls(run.folder)
        checkpoints = {Path(os.path.relpath(file, run.folder)): at for file, at in run.checkpoints.items()}
        return cls(run.folder, overrides, run.status, run.started, checkpoints, agent in agents_of(run.folder))

    def as_dict(self) -> dict[str, Any]:
        checkpoints = {str(file): at for file, at in self.checkpoints.items()}
        return vars(self) | {"folder": str(self.folder), "checkpoints": checkpoints}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "RunTold":
        folder = Path(told["folder"])
        return cls(**told | {"folder": folder, "checkpoints": {folder / k: v for k, v in told["checkpoints"].items()}})


def of_interest(asked: Asked, runs: Iterable[RunFolder], agent: str) -> list[RunTold]:
    """Those of a host's runs that a command may go on with."""
    found: list[RunTold] = []
    for run in runs:
        is_asked_for = asked.resume and run.overrides == asked.overrides
        if is_asked_for or (asked.checkpoint == "last" and run.checkpoints) or agent in agents_of(run.folder):
            found.append(RunTold.of(run, agent))
    return found


def merged(told: Iterable[RunTold]) -> list[RunTold]:
    """Each run once, where several hosts tell of it: it has come as far as any of them has seen."""
    runs: dict[Path, RunTold] = {}
    for one in told:
        before = runs.get(one.folder, RunTold(one.folder))
        statuses = [run.status for run in (before, one) if run.overrides is not None]
        status = "finished" if "finished" in statuses else next(iter(statuses), None)
        checkpoints = {
            file: max(run.checkpoints.get(file, 0) for run in (before, one))
            for file in before.checkpoints | one.checkpoints
        }
        runs[one.folder] = RunTold(
            one.folder, before.overrides or one.overrides, status, max(before.started, one.started), checkpoints,
            before.is_ours or one.is_ours,
        )  # fmt: skip
    return list(runs.values())


def started_before(asked: Asked, there: list[RunTold]) -> RunTold | None:
    """The run that torchrun starts again. One that was to start from a checkpoint and has none of its own yet has
    done nothing, and begins as it was asked to."""
    ours = [run for run in there if run.is_ours and (run.checkpoints or asked.checkpoint is None)]
    return max(ours, key=lambda run: run.started, default=None)


def agents_of(folder: Path) -> list[str]:
    """The torchruns whose processes worked in a folder last."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return list(json.loads((folder / STARTED_BY_FILE).read_text())["agents"])
    return []


def keep_agents(folder: Path, agents: list[str]) -> None:
    """So that they find it when they are started again."""
    (folder / STARTED_BY_FILE).write_text(json.dumps({"agents": agents}))
