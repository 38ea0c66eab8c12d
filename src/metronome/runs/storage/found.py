"""The runs and sweeps of a storage, as a command that goes on looks at them, and which of them are newer there."""

from collections.abc import Sequence
from pathlib import Path

from metronome.runs.folders import RunFolder
from metronome.runs.going_on import RunFound
from metronome.runs.names import CONFIG_FILE, SWEEP_FILE
from metronome.runs.storage.address import Place
from metronome.runs.storage.manifest import Manifest, folders_in
from metronome.runs.storage.taking import is_checkpoint, look, newest_checkpoint

BASE = Path("runs")


class StoredRun:
    """A run as its manifest shows it (`going_on.RunFound`); `folder` is where it would lie on this machine."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @property
    def overrides(self) -> list[str] | None:
        return self.manifest.about.get("overrides")

    @property
    def status(self) -> str | None:
        return self.manifest.about.get("status")

    @property
    def started(self) -> int:
        return self.manifest.files[CONFIG_FILE].mtime_ns

    @property
    def checkpoints(self) -> dict[Path, int]:
        files = self.manifest.files
        return {self.folder / name: files[name].mtime_ns for name in files if is_checkpoint(name)}


def name_in_storage(folder: Path) -> str:
    """How a run's folder is called there: as below `runs`; elsewhere by its own name alone.

    >>> name_in_storage(Path("runs/digits/2026-11-25_201500_ab12cd"))
    'digits/2026-11-25_201500_ab12cd'
    """
    folder, base = folder.absolute(), BASE.absolute()
    return folder.relative_to(base).as_posix() if folder != base and folder.is_relative_to(base) else folder.name


def runs_stored(place: Place, base: Path) -> list[StoredRun]:
    """The runs whose folders would lie in `base`."""
    found = folders_in(place / name_in_storage(base), depth=2)
    runs = [StoredRun(base / name, manifest) for name, manifest in found.items()]
    return [run for run in runs if run.overrides is not None and CONFIG_FILE in run.manifest.files]


def runs_in_both(here: Sequence[RunFound], stored: Sequence[StoredRun]) -> list[RunFound | StoredRun]:
    """Each run once: as it is on this machine, or as it is stored where that is newer."""
    newer = {run.folder.name: run for run in stored if is_newer(run.manifest, run.folder)}
    return [run for run in here if run.folder.name not in newer] + list(newer.values())


def is_newer(stored: Manifest, folder: Path) -> bool:
    """Whether what is stored is newer than what is here: its newest checkpoint was written later, or it has come to
    its end, and here not."""
    run = RunFolder(folder)
    if run.overrides is None:
        return True
    there = newest_checkpoint({name: entry.mtime_ns for name, entry in stored.files.items()})
    here = newest_checkpoint({name: stat.st_mtime_ns for name, stat in look(folder).items()})
    return there > here or (there == here and stored.about.get("status") == "finished" and run.status is None)


def newest_sweep_stored(place: Place, base: Path, sweep: object) -> Path | None:
    """Where the folder of this very sweep would lie here; of several the one whose was started last."""
    found = folders_in(place / name_in_storage(base), depth=2)
    same = {name: manifest.files[SWEEP_FILE].mtime_ns for name, manifest in found.items()
            if manifest.about.get("sweep") == sweep and SWEEP_FILE in manifest.files}  # fmt: skip
    newest = max(same, key=lambda name: same[name], default=None)
    return None if newest is None else base / newest
