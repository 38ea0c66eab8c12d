"""A run that is stored elsewhere too, while it lasts: `storage=s3://bucket/project`."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from metronome.app.hosts.company import company
from metronome.runs.folders import relative
from metronome.runs.names import ORDER_FILE, STUDY_FILE, SWEEP_FILE
from metronome.runs.storage.address import Place, is_address, place_of, told
from metronome.runs.storage.found import is_newer, name_in_storage
from metronome.runs.storage.mirror import Mirror, about_run
from metronome.runs.storage.storing import Store, TakenOver
from metronome.runs.storage.taking import Taken
from metronome.runs.sweeps import sweep_of
from metronome.units import InputError, RunFailed

log = logging.getLogger("metronome")

_COLUMNS = 80


class NotStored(RunFailed):
    """A run has come to its end, and its last state is on this machine alone."""


@contextmanager
def stored(address: Any, folder: Path, goes_on: bool, in_sweep: bool) -> Iterator[None]:
    """Around a run: what it leaves in its folder is stored at an address, and awaited at the end, however it ends.
    Without an address, and in all processes but the first of the first node, nothing is done.

    Args:
        address: `storage` of the configuration.
        folder: of the run.
        goes_on: whether it held this run before.
        in_sweep: whether it is a job of a sweep, which has a line of its own, and says nothing here.

    Raises:
        InputError: before the run, for a storage that cannot be written to, or holds another run of this name or a
            newer state of it.
        NotStored: after a run that did all it should, where its last state could not be stored: result.json has the
            whole result and says `finished`, and the command fails, since where a machine's disk goes with it, to end
            well would be to lose the run in silence.
    """
    watched, begun, others = _Watched(address, folder, in_sweep), list[Mirror](), company()

    def begin() -> None:
        begun.append(watched.begin(goes_on))

    if address is not None and others is not None:
        others.first_says(begin)  # where it cannot, the others end without a word
    elif address is not None and _is_first_of_all():
        begin()
    if not begun:
        yield
        return
    (mirror,) = begun
    try:
        yield
    except BaseException:
        if (why := watched.end(mirror)) is not None:
            log.warning("%s", why)
        raise
    if (why := watched.end(mirror)) is not None:
        raise NotStored(why)


def _is_first_of_all() -> bool:
    """One process of all hosts: on each of them one starts the others, and has no rank yet."""
    nodes = [os.environ.get(name, "0") for name in ("NODE_RANK", "GROUP_RANK")]
    return rank_zero_only.rank == 0 and all(rank == "0" for rank in nodes)


@dataclass(frozen=True)
class _Watched:
    address: Any
    folder: Path
    in_sweep: bool

    def begin(self, goes_on: bool) -> Mirror:
        place = place_for(self.address, self.folder)
        try:
            with told(f"storage={self.address} cannot be written to"):
                store = Store(place)
                self._check(store, goes_on)
                store.probe()
                if self.in_sweep:
                    _store_sweep(self.address, self.folder.parent)
        except RunFailed as error:  # before it has begun it is a matter of what was typed
            raise InputError(str(error)) from error
        # Without `s3://` a bucket's name is a folder here: said whole, it is seen.
        self._say(
            "storage", self.address if is_address(self.address) else str(Path(self.address).expanduser().resolve())
        )
        mirror = Mirror(self.folder, store, about_run)
        mirror.start()
        return mirror

    def end(self, mirror: Mirror) -> str | None:
        """Why the last state could not be stored; None if it is. A line says what is waited for."""
        try:
            why = mirror.finish(
                lambda size: self._say("storing", f"{size / 1e6:,.1f} MB of checkpoints in", self.address)
            )
        except KeyboardInterrupt:
            log.warning("not waited for: what was stored last in %s may be older than this run", self.address)
            raise
        if why is None:
            self._say("stored", "in", self.address)
            return None
        return (
            f"the last state of the run could not be stored in {self.address}: {why}; it is whole in "
            f"{relative(self.folder)}, and the same command with resume=auto stores it"
        )

    def _check(self, store: Store, goes_on: bool) -> None:
        if store.last is None or not store.last.files:
            return
        if not goes_on:
            raise InputError(
                f"{store.place.address} holds a run already; go on with it, resume=auto, or give another folder"
            )
        if is_newer(store.last, self.folder):
            raise InputError(
                f"{store.place.address} holds a newer state of this run; go on with it, resume=auto or ckpt_path=last, "
                "or begin anew"
            )

    def _say(self, word: str, *what: str) -> None:
        if not self.in_sweep:
            line = " ".join([f"{word:10}", *what])
            log.info(
                "%s", line if len(line) <= _COLUMNS else "\n".join([" ".join([f"{word:10}", *what[:-1]]), what[-1]])
            )


def place_for(address: Any, folder: Path) -> Place:
    """Where a run's folder is stored. Raises InputError for an address that leads nowhere, or into the run itself."""
    if not isinstance(address, str):
        raise InputError(f"storage={address} is no address such as s3://bucket/project or file:///mnt/shared/project")
    place = place_of(address, "storage=") / name_in_storage(folder)
    if place.is_local and Path(place.path).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"storage={address} is where the run itself lies; give a folder of another disk or machine")
    return place


def _store_sweep(address: Any, folder: Path) -> None:
    """What the sweep is, so that another machine finds it. Jobs beside each other store the same."""
    files: dict[str, Taken] = {}
    for name in (SWEEP_FILE, STUDY_FILE, ORDER_FILE):
        if (path := folder / name).is_file():
            stat = path.stat()
            files[name] = Taken(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    for _ in range(3):
        try:
            Store(place_for(address, folder), has_folders_below=True).put(files, {"sweep": sweep_of(folder)})
            return
        except TakenOver:
            continue
