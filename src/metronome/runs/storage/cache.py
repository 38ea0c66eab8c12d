"""What an address names, on this machine: brought once, checked each time."""

import hashlib
import os
import shutil
from pathlib import Path

from metronome.runs.names import CONFIG_FILE
from metronome.runs.storage.address import Place, is_address, place_of, told
from metronome.runs.storage.fetching import bring, download
from metronome.runs.storage.manifest import Manifest, folders_in, newest
from metronome.runs.storage.taking import is_checkpoint
from metronome.units import InputError

_FOLDERS_ABOVE = 3  # a run's checkpoints lie at most so deep in it


def cache_folder() -> Path:
    """`METRONOME_CACHE`, or `metronome` in the user's folder for such files. All of it may be deleted."""
    if own := os.environ.get("METRONOME_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metronome"


def at_hand(path: str | Path, with_run: bool = False) -> Path:
    """The file of a path; that of an address is brought to the cache, and checked by the digest in the manifest of its
    run. One that no run has stored (`https://...`) is brought as it is.

    Args:
        path: of a checkpoint, or its address.
        with_run: whether to bring the configuration, curves and results of its run along.

    Raises:
        InputError: for an address where no such file is.
        RunFailed: for a storage that cannot be read, or a file that is damaged.
    """
    if not is_address(path):
        return Path(path)
    place = place_of(str(path))
    with told(f"reading {place.address}"):
        parts = place.path.split("/")
        for above in range(1, min(_FOLDERS_ABOVE, len(parts) - 1) + 1):
            run = Place(place.fs, "/".join(parts[:-above]), place.address.rsplit("/", above)[0])
            if (manifest := newest(run)) is not None:
                return _of_run(run, manifest, "/".join(parts[-above:]), with_run)
        if newest(place) is not None:
            raise InputError(f"{path} is the folder of a run; give the address of a file in it: .../best.ckpt")
        if not place.fs.isfile(place.path):
            raise InputError(f"{path} is not there, and no run that has stored it")
        file = _cached(place) / place.path.rpartition("/")[2]
        download(place, file)
        return file


def runs_at_hand(path: str | Path) -> Path:
    """The folder of a path; of an address the runs below are brought to the cache, without their checkpoints.

    Raises:
        InputError: if no run is stored there.
        RunFailed: for a storage that cannot be read.
    """
    if not is_address(path):
        return Path(path)
    place = place_of(str(path))
    with told(f"reading {place.address}"):
        folders = folders_in(place)
        if not any(CONFIG_FILE in manifest.files for manifest in folders.values()):
            raise InputError(f"no run is stored in {path}; give the address of a run, of a sweep, or one above")
        here = _cached(place)
        for config in list(here.rglob(CONFIG_FILE)):
            if config.parent.relative_to(here).as_posix() not in {name or "." for name in folders}:
                shutil.rmtree(config.parent, ignore_errors=True)  # it is stored no more
        for name in folders:
            bring(place / name if name else place, here / name, lambda file: not is_checkpoint(file))
    return here


def _of_run(run: Place, manifest: Manifest, name: str, with_run: bool) -> Path:
    def wanted(file: str) -> bool:
        return file == name or file.startswith(f"{name}/") or (with_run and not is_checkpoint(file))

    if not any(file == name or file.startswith(f"{name}/") for file in manifest.files):
        there = ", ".join(sorted(filter(is_checkpoint, manifest.files))) or "no checkpoint yet"
        raise InputError(f"{run.address} holds no {name}; there is: {there}")
    folder = _cached(run)
    bring(run, folder, wanted)
    return folder / name


def _cached(place: Place) -> Path:
    """A folder in the cache for what an address names, called so that one recognizes it."""
    digest = hashlib.sha256(place.address.encode()).hexdigest()[:12]
    return cache_folder() / "storage" / digest / place.path.rstrip("/").rpartition("/")[2]
