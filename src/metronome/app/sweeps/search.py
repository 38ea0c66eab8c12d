"""A search that outlives a kill: its trials are in a file, and those that were cut off are taken up again.

Imports nothing heavy, and Optuna only where it is used.
"""

import json
import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from metronome.runs.folders import (
    RESULT_FILE,
    hold,
    own_overrides,
    relative,
    resumes,
    status,
    sweep_of,
    write_sweep,
)
from metronome.units import InputError, RunFailed

FILE = "search.db"


def storage(folder: str, sweep: str, resume: str | None) -> Any:
    """The storage of the search in a sweep's folder, which is marked as that of this sweep (JSON of `this_sweep`).

    Trials that were running when an earlier start was cut off, and with resume=retry those that failed, are made again
    first; their values are the same, so are the names of their folders, and so they go on.

    Raises:
        InputError: if the folder holds a search that is not to go on, or a process works in it.
        ModuleNotFoundError: without Optuna.
    """
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    lock = hold(place)
    if (place / FILE).is_file():
        if sweep_of(place) != json.loads(sweep):
            raise InputError(f"the folder {relative(place)} holds a search of other values; give another one")
        if not resumes(resume):
            raise InputError(
                f"the folder {relative(place)} holds a search already; give another one, or go on with it: resume=auto"
            )
        _queue_again(folder, ("RUNNING", "FAIL") if resume == "retry" else ("RUNNING",))
    write_sweep(place, json.loads(sweep))

    class Storage(optuna.storages.RDBStorage):
        process = lock

        def get_best_trial(self, study_id: int) -> Any:
            """What Hydra asks for at the end."""
            try:
                return super().get_best_trial(study_id)
            except ValueError:
                raise RunFailed(
                    f"no trial of the search in {relative(place)} has come to a value of the monitored metric"
                ) from None

    return Storage(f"sqlite:///{place / FILE}")


def _queue_again(folder: str, states: Sequence[str]) -> None:
    """Let the trials in these states wait to be made, with the number and the values they have."""
    if _count(folder, states):
        with closing(sqlite3.connect(Path(folder) / FILE)) as database, database:
            for state in states:
                database.execute("UPDATE trials SET state = 'WAITING' WHERE state = ?", (state,))


def trials_left(total: int, folder: str, resume: str | None) -> int:
    """How many of `total` trials the search in a sweep's folder has still to make."""
    return max(0, total - _count(folder, ("COMPLETE",) if resume == "retry" else ("COMPLETE", "FAIL")))


def trials_done(folder: str) -> int:
    """How many trials of the search in a sweep's folder have ended, well or not."""
    return _count(folder, ("COMPLETE", "FAIL"))


def _count(folder: str, states: Sequence[str]) -> int:
    file = Path(folder) / FILE
    if not file.is_file():
        return 0
    with closing(sqlite3.connect(file)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'trials'").fetchone():
            return 0  # cut off before it had its tables
        return sum(state in states for (state,) in database.execute("SELECT state FROM trials"))


class SayBest(Callback):
    """At the end of a search, one line for its best trial."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder, better = Path(config.hydra.sweep.dir), max if config.hydra.sweeper.direction == "maximize" else min
        finished = [path for path in folder.rglob(RESULT_FILE) if status(path.parent) == "finished"]
        found = [(path.parent, json.loads(path.read_text())) for path in finished]
        valued = [(run, result) for run, result in found if result["best"]]
        if not valued:
            return
        run, result = better(valued, key=lambda item: float(item[1]["best"]["value"]))
        own = " ".join(own_overrides(result["overrides"], folder))
        best = f"{result['best']['monitor']} {float(result['best']['value']):.4g}"
        print(f"best of {trials_done(str(folder))}: {own}  {best}  {relative(run)}", flush=True)
