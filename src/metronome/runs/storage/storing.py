"""A state of a folder brought into a storage, whole or not at all."""

import hashlib
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from metronome.runs.storage.address import Place
from metronome.runs.storage.manifest import (
    Entry,
    Manifest,
    folders_in,
    is_stored_name,
    manifest_name,
    newest,
    number_of,
    numbers_in,
    stored_name,
)
from metronome.runs.storage.taking import Taken
from metronome.units import RunFailed

_CHUNK = 1 << 20


class TakenOver(RunFailed):
    """Another process stores the same run."""


class Store:
    """One folder in a storage, which this process writes to.

    What is there stays as it is until the newer state is there whole; only then goes what that no longer names. A
    process that is killed leaves files that no manifest names; the next one takes them away.
    """

    def __init__(self, place: Place, has_folders_below: bool = False) -> None:
        self.place, self.last = place, newest(place)
        self.writer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._whole: set[str] = set()  # stored by this process, and named by no manifest yet
        self._leftovers: set[str] = set()
        self._has_folders_below, self._is_tidy = has_folders_below, False

    def put(self, files: Mapping[str, Taken | Entry], about: Mapping[str, Any]) -> Manifest:
        """Store a state; one that is there already is not written again.

        Args:
            files: by their names; an Entry for one that is stored as it is.
            about: what the manifest says of it.

        Raises:
            TakenOver: if another process has stored something here since this one did.
            Exception: whatever the file system raises; the state that was there is whole then.
        """
        entries = {name: self._put_file(name, file) for name, file in files.items()}
        before = self.last
        if before is None or before.files != entries or dict(before.about) != dict(about):
            self.last = Manifest(self._next_number(), self.writer, about, entries)
            try:
                self._write(manifest_name(self.last.number), self.last.as_bytes())
            except BaseException:
                self.last = before
                raise
        assert self.last is not None
        if before is not self.last or not self._is_tidy:
            self._tidy(self.last, before)
        return self.last

    def probe(self) -> None:
        """Write, read and delete a small file. Raises whatever the file system does."""
        name, data = f"probe-{secrets.token_hex(6)}", b"metronome"
        self._write(name, data)
        with suppress(Exception):  # one may write, and not delete
            self.place.fs.rm_file((self.place / name).path)

    def _put_file(self, name: str, file: Taken | Entry) -> Entry:
        if isinstance(file, Entry):
            return file
        digest = sha256_of(file.path)
        entry = Entry(stored_name(name, digest), file.size, digest, file.mtime_ns)
        there = {} if self.last is None else {e.stored for e in self.last.files.values()}
        if entry.stored not in self._whole and entry.stored not in there:
            place = self.place / entry.stored
            self._leftovers.add(entry.stored)
            self._folder_for(place)
            place.fs.put_file(str(file.path), place.path)
            self._check_size(place, file.size)
            self._whole.add(entry.stored)
        return entry

    def _write(self, name: str, data: bytes) -> None:
        place = self.place / name
        self._folder_for(place)
        place.fs.pipe_file(place.path, data)
        self._check_size(place, len(data))
        if place.fs.cat_file(place.path) != data:
            raise OSError(f"{place.address} does not hold what was written to it")

    def _folder_for(self, place: Place) -> None:
        if not place.is_flat:
            place.fs.makedirs(place.path.rpartition("/")[0], exist_ok=True)

    def _check_size(self, place: Place, size: int) -> None:
        """A store may take less than it was given, and not say so."""
        if place.is_local:
            with open(place.path, "rb") as file:
                os.fsync(file.fileno())
        place.fs.invalidate_cache()
        there = place.fs.info(place.path)["size"]
        if there != size:
            raise OSError(f"of {size:,} bytes {there or 0:,} are in {place.address}")

    def _next_number(self) -> int:
        last = 0 if self.last is None else self.last.number
        number = max([last, *numbers_in(self.place)])
        if number > last:
            theirs = newest(self.place)
            if theirs is not None and theirs.number > last and theirs.writer != self.writer:
                raise TakenOver(
                    f"another process ({theirs.writer.rpartition(':')[0]}) stores this run in {self.place.address}, "
                    "and this one stores no more of it"
                )
        return number + 1

    def _tidy(self, manifest: Manifest, before: Manifest | None) -> None:
        """Delete what the manifest does not name. What cannot be deleted is in nobody's way, and goes the next time."""
        self._leftovers |= set() if before is None else {entry.stored for entry in before.files.values()}
        try:
            self._leftovers |= {manifest_name(n) for n in numbers_in(self.place) if n < manifest.number}
            if not self._is_tidy:
                self._leftovers |= self._of_killed()
            self._is_tidy = True
        except Exception:
            self._is_tidy = False
        named = {entry.stored for entry in manifest.files.values()}
        self._leftovers -= named
        self._whole &= named
        for name in sorted(self._leftovers, key=lambda name: number_of(name) is None):  # manifests first
            try:
                self.place.fs.rm_file((self.place / name).path)
            except FileNotFoundError:
                pass
            except Exception:
                self._is_tidy = False
                continue
            self._leftovers.discard(name)

    def _of_killed(self) -> set[str]:
        """What processes that were killed have left here."""
        if self._has_folders_below:  # whose files are not this one's to take away
            return set()
        below = [folder for folder in folders_in(self.place) if folder]
        names = [name for name in self.place.names() if is_stored_name(name) or name.startswith("probe-")]
        return {name for name in names if not any(name.startswith(f"{folder}/") for folder in below)}


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
