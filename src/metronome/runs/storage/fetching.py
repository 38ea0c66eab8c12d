"""Files brought back from a storage, each checked by its digest; all of them or none."""

import hashlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from metronome.runs.names import RESULT_FILE, STORAGE_FOLDER
from metronome.runs.storage.address import Place
from metronome.runs.storage.manifest import Entry, Manifest, newest
from metronome.runs.storage.storing import sha256_of
from metronome.runs.storage.taking import is_checkpoint
from metronome.units import RunFailed

_TRIES, _CHUNK = 5, 1 << 20


class Damaged(RunFailed):
    """What a storage gives is not what was stored."""


def bring(
    place: Place,
    folder: Path,
    wanted: Callable[[str], bool] = lambda name: True,
    is_run: bool = True,
    is_due: Callable[[Manifest], bool] = lambda manifest: True,
) -> Manifest | None:
    """Bring a stored folder to this machine, as it was when its newest manifest was written.

    What is here already, with the same bytes, is not fetched. A start that is killed in between leaves the files that
    were here, and no newer checkpoint: the one that was written last gets its name last.

    Args:
        place: the folder in the storage.
        folder: where to put it.
        wanted: which files, by their names.
        is_run: whether what is here is the run of an earlier state, whose end is none now.
        is_due: asked once no other process brings the same.

    Returns:
        What was brought; None if nothing is stored there.

    Raises:
        Damaged: if a file is not what its manifest says.
        Exception: whatever the file system raises.
    """
    for left in reversed(range(_TRIES)):
        manifest = newest(place)
        if manifest is None:
            return None
        with _one_at_a_time(folder) as aside:
            if not is_due(manifest):
                return manifest
            try:
                fetched = _fetched(place, folder, aside, {n: e for n, e in manifest.files.items() if wanted(n)})
            except FileNotFoundError as error:
                if left:  # a newer state has taken its place meanwhile
                    continue
                raise Damaged(f"{place.address} lacks a file that its manifest names: {error}") from error
            if is_run and RESULT_FILE not in manifest.files:
                (folder / RESULT_FILE).unlink(missing_ok=True)
            for name in sorted(fetched, key=lambda name: (is_checkpoint(name), manifest.files[name].mtime_ns)):
                _put(fetched[name], folder / name, manifest.files[name].mtime_ns)
        return manifest
    return None


def _fetched(place: Place, folder: Path, aside: Path, files: dict[str, Entry]) -> dict[str, Path]:
    """Those that are not here, whole, where they lie until all are there."""
    fetched: dict[str, Path] = {}
    for name, entry in files.items():
        here = folder / name
        if here.is_file() and here.stat().st_size == entry.size and sha256_of(here) == entry.sha256:
            os.utime(here, ns=(entry.mtime_ns, entry.mtime_ns))
            continue
        fetched[name] = aside / f"{len(fetched)}"
        download(place / entry.stored, fetched[name], entry.sha256)
    return fetched


def download(place: Place, path: Path, sha256: str | None = None) -> None:
    """One file, its bytes checked as they come. Raises Damaged if they are others."""
    digest, part = hashlib.sha256(), path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with place.fs.open(place.path, "rb") as there, open(part, "wb") as here:
            while chunk := there.read(_CHUNK):
                digest.update(chunk)
                here.write(chunk)
            here.flush()
            os.fsync(here.fileno())
        if sha256 not in (None, digest.hexdigest()):
            raise Damaged(f"{place.address} is damaged: its bytes are not those that were stored (sha256)")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _put(source: Path, target: Path, mtime_ns: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".log" and target.is_file():
        # It is open already, and lines are added at its end: what is new in it comes after what was stored.
        ours, theirs = (file.read_bytes().splitlines(keepends=True) for file in (target, source))
        both = sum(1 for _ in takewhile(lambda lines: lines[0] == lines[1], zip(ours, theirs, strict=False)))
        target.write_bytes(b"".join([*theirs, *ours[both:]]))
        return
    os.utime(source, ns=(mtime_ns, mtime_ns))
    os.replace(source, target)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[Path]:
    """A hidden folder for what is on its way. Another process of this machine that wants the same waits, and finds it
    here; where a file system has no locks, each brings it for itself, the same bytes."""
    hidden = folder / STORAGE_FOLDER
    hidden.mkdir(parents=True, exist_ok=True)
    aside = hidden / f"in-{socket.gethostname()}-{os.getpid()}"
    with open(hidden / "lock", "w") as lock:
        with suppress(ImportError, OSError):
            from fcntl import LOCK_EX, lockf

            lockf(lock, LOCK_EX)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
