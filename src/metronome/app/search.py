"""A search that outlives a kill: its trials are in a file, and those that were cut off are taken up again."""

import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from metronome.app.folders import SWEEP_FILE

FILE, _CUT_OFF = "search.db", "cut_off"


def storage(folder: str, overrides: Sequence[str]) -> Any:
    """The storage of the search in a sweep's folder, which is marked as that of these overrides.

    Trials that were running when an earlier start was cut off are put back in the queue with the values they had; their
    folders have the same names, and so they go on.

    Raises:
        ModuleNotFoundError: without Optuna.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    Path(folder).mkdir(parents=True, exist_ok=True)
    # As Hydra's own sweeper does, which finds the folder again by it.
    record = {"hydra": {"overrides": {"task": list(overrides)}}}
    (Path(folder) / SWEEP_FILE).write_text(yaml.safe_dump(record))
    url = f"sqlite:///{Path(folder) / FILE}"
    store = optuna.storages.RDBStorage(url)
    for summary in optuna.get_all_study_summaries(store):
        study = optuna.load_study(summary.study_name, store)
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            store.set_trial_user_attr(trial._trial_id, _CUT_OFF, True)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna calls it experimental
                study.enqueue_trial(trial.params)
    return store


def trials_left(total: int, folder: str) -> int:
    """How many of `total` trials the search in a sweep's folder has still to make."""
    return max(0, total - trials_done(folder))


def trials_done(folder: str) -> int:
    """How many trials of the search in a sweep's folder have ended, well or not. Imports nothing heavy."""
    file = Path(folder) / FILE
    if not file.is_file():
        return 0
    with closing(sqlite3.connect(file)) as database:
        return database.execute(
            "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'FAIL') AND trial_id NOT IN "
            "(SELECT trial_id FROM trial_user_attributes WHERE key = ?)",
            (_CUT_OFF,),
        ).fetchone()[0]
