"""A search that outlives a kill: its trials are in a file, and those that were cut off are taken up again.

Imports nothing heavy; Optuna, which takes a second, only where there is a search.
"""

import json
import logging
import os
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from metronome.runs.folders import hold, relative
from metronome.runs.going_on import resumes
from metronome.runs.sweeps import sweep_of, write_sweep
from metronome.units import InputError, RunFailed

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

FILE = "search.db"
_ENDED = ("COMPLETE", "FAIL")


def open_storage(folder: str, sweep: str, resume: str | None) -> "RDBStorage":
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
        _queue_again(place, ("RUNNING", "FAIL") if resume == "retry" else ("RUNNING",))
    write_sweep(place, json.loads(sweep))

    class Storage(optuna.storages.RDBStorage):
        held = lock  # as long as the search may write

        def get_best_trial(self, study_id: int) -> "FrozenTrial":
            """What Hydra asks for at the end."""
            try:
                return super().get_best_trial(study_id)
            except ValueError:
                raise RunFailed(
                    f"no trial of the search in {relative(place)} has come to a value of the monitored metric"
                ) from None

    return Storage(f"sqlite:///{place / FILE}")


def trials_left(total: int, folder: str, resume: str | None) -> int:
    """How many of `total` trials the search in a sweep's folder has still to make."""
    return max(0, total - _count(_studies(Path(folder)), ("COMPLETE",) if resume == "retry" else _ENDED))


def trials_done(folder: str) -> int:
    """How many trials of the search in a sweep's folder have ended, well or not."""
    return _count(_studies(Path(folder)), _ENDED)


def trials_finished_and_failed(folder: str) -> tuple[int, int]:
    studies = _studies(Path(folder))
    finished, failed = (_count(studies, (state,)) for state in _ENDED)
    return finished, failed


def _studies(folder: Path) -> "list[Study]":
    """What the file of a sweep's folder holds: one study, or none where no start has come as far."""
    if not (folder / FILE).is_file():
        return []
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
    return [optuna.load_study(found.study_name, storage) for found in optuna.get_all_study_summaries(storage)]


def _count(studies: Iterable["Study"], states: Collection[str]) -> int:
    return sum(trial.state.name in states for study in studies for trial in study.get_trials(deepcopy=False))


def _queue_again(folder: Path, states: Collection[str]) -> None:
    """Let the trials in these states wait to be made, with the number and the values they have.

    Optuna has no call that takes back the end of a trial, and gives one that is queued a new number; so all are written
    anew, into a file that takes the place of the old one when it is whole.
    """
    import optuna

    studies = _studies(folder)
    if not _count(studies, states):
        return
    again = folder / f"{FILE}.new"
    again.unlink(missing_ok=True)  # of a start that was cut off here
    storage = optuna.storages.RDBStorage(f"sqlite:///{again}")
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        for study in studies:
            copy = optuna.create_study(storage, study_name=study.study_name, directions=study.directions)
            for key, value in study.user_attrs.items():
                copy.set_user_attr(key, value)
            for key, value in study.system_attrs.items():  # what samplers know
                copy.set_system_attr(key, value)
            for trial in study.trials:
                if trial.state.name in states:
                    trial.state, trial.values = optuna.trial.TrialState.WAITING, None
                    trial.datetime_start = trial.datetime_complete = None
                copy.add_trial(trial)
    os.replace(again, folder / FILE)
