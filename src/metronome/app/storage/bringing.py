"""Runs that are brought back from where they are stored, to go on with on this machine. Imports nothing heavy."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metronome.runs.folders import runs_in
from metronome.runs.going_on import RunFound
from metronome.runs.storage.address import place_of, told
from metronome.runs.storage.fetching import bring
from metronome.runs.storage.found import is_newer, name_in_storage, newest_sweep_stored, runs_in_both, runs_stored
from metronome.runs.storage.manifest import Manifest, newest
from metronome.runs.sweeps import sweep_of

log = logging.getLogger("metronome")


def runs_known(storage: Any, base: Path, on_hosts: Sequence[RunFound] | None = None) -> list[RunFound]:
    """The runs in a folder, and those that would lie there and are stored: each as it is where it is newer.

    Args:
        on_hosts: those in the folder, of all hosts; None: of this one.

    Raises:
        InputError, RunFailed: for a storage that cannot be read.
    """
    here = runs_in(base) if on_hosts is None else on_hosts
    if storage is None:
        return [*here]
    with told(f"reading storage={storage}"):
        return [*runs_in_both(here, runs_stored(place_of(str(storage), "storage="), base))]


def bring_back(storage: Any, folder: Path, quietly: bool = False) -> None:
    """Bring a run back to its folder, where it is stored, and newer there.

    Raises:
        InputError, RunFailed: for a storage that cannot be read, or whose bytes are damaged.
    """
    if storage is None:
        return
    with told(f"reading storage={storage}"):
        place = place_of(str(storage), "storage=") / name_in_storage(folder)
        manifest = newest(place)
        if manifest is None or not is_newer(manifest, folder):
            return

        def is_due(manifest: Manifest) -> bool:
            due = is_newer(manifest, folder)  # another process of this run may have brought it meanwhile
            if due and not quietly:
                log.info("%-10s %s MB from %s", "fetching", f"{manifest.size / 1e6:,.1f}", storage)
            return due

        bring(place, folder, is_due=is_due)


def bring_sweep(storage: Any, base: Path, sweep: dict[str, Any]) -> None:
    """Bring back what a sweep is, where this very sweep is stored and not on this machine; its jobs come one by one."""
    if storage is None:
        return
    with told(f"reading storage={storage}"):
        place = place_of(str(storage), "storage=")
        folder = newest_sweep_stored(place, base, sweep)
        if folder is not None and sweep_of(folder) != sweep:
            bring(place / name_in_storage(folder), folder, is_run=False)
