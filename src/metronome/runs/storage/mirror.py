"""A run's folder, stored elsewhere while the run goes on, by a thread of its own.

The thread looks at the folder once a second, so that nothing of a training knows of it or waits for it, whoever writes
the checkpoints: this process, those of a run on several devices, or a thread. At most one state is on its way; when it
has arrived, the newest is next, and those in between are left out.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metronome.runs.names import CONFIG_FILE
from metronome.runs.storage.address import reason
from metronome.runs.storage.manifest import Entry, Manifest
from metronome.runs.storage.storing import Store, TakenOver
from metronome.runs.storage.taking import Key, Shelf, Taken, is_checkpoint, key_of, look, signature

log = logging.getLogger("metronome")

_LOOKS_SECONDS = 1.0
# A look takes a hundredth of the thread's time at most, however many files there are.
_SHARE_OF_LOOKS = 0.01
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_TRIES_AT_END = 5


class Mirror:
    """Stores what a run leaves in its folder, checkpoints above all, until `finish`.

    Args:
        folder: of the run.
        store: where it goes.
        about: what a folder holds, for the manifest.
        wait: how long to wait after a first failure, in seconds; twice as long after each further one.
    """

    def __init__(
        self, folder: Path, store: Store, about: Callable[[Path], Mapping[str, Any]], wait: float = _FIRST_WAIT
    ) -> None:
        self.folder, self.store, self.about, self.first_wait = folder, store, about, wait
        self.error: str | None = None  # why the last try has failed
        self._shelf = Shelf(folder)
        self._known: dict[str, Key] = {}  # the files that are stored, as they were then
        self._seen: dict[str, Key] | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_storing, name="storage", daemon=True)

    def start(self) -> None:
        self._know_what_is_stored()
        self._thread.start()

    def store_now(self, everything: bool = False) -> Manifest:
        """Store the state of this moment. Raises whatever the file system does."""
        state, taken = self._shelf.take(everything, self._known)
        try:
            entries = {} if self.store.last is None else self.store.last.files
            files: dict[str, Taken | Entry] = {name: taken[name] if name in taken else entries[name] for name in state}
            # The order in the list is that of their names, and the rest is as it was taken.
            manifest = self.store.put(dict(sorted(files.items())), self.about(self.folder))
        finally:
            self._shelf.clear()
        taken_keys = {name: (file.inode, file.size, file.mtime_ns) for name, file in taken.items()}
        self._known = {name: taken_keys.get(name) or self._known[name] for name in state}
        return manifest

    @property
    def is_behind(self) -> bool:
        """Whether there is a checkpoint or a result that is not stored yet."""
        here = signature(look(self.folder))
        return any(self._known.get(name) != key for name, key in here.items())

    def finish(self, say: Callable[[int], None]) -> str | None:
        """Store the last state with all that is in the folder, and wait for it.

        Args:
            say: called once, with the bytes of all checkpoints, where there is something to wait for.

        Returns:
            Why the last state could not be stored; None if it is.

        Raises:
            KeyboardInterrupt: of one who does not wait.
        """
        if self._thread.is_alive() and self.is_behind:
            size = sum(stat.st_size for name, stat in look(self.folder).items() if is_checkpoint(name))
            say(size)
        self._ending.set()
        while self._thread.is_alive():
            self._thread.join(0.2)  # and again, so that a signal is heard
        self._shelf.remove()
        return self.error

    # ---- the thread -----------------------------------------------------------------------------------------

    def _keep_storing(self) -> None:
        failures = tries_at_end = 0
        pause = _LOOKS_SECONDS
        while True:
            is_ending = self._ending.is_set()  # before it looks: what is there then is the last
            began = time.monotonic()
            seen = signature(look(self.folder))
            pause = max(_LOOKS_SECONDS, (time.monotonic() - began) / _SHARE_OF_LOOKS)
            if is_ending or seen != self._seen:
                try:
                    self.store_now(everything=is_ending)
                except TakenOver as error:
                    self.error = str(error)
                    log.warning("%s", error)
                    return
                except Exception as error:  # each file system has errors of its own
                    self.error = reason(error)
                    failures, tries_at_end = failures + 1, tries_at_end + is_ending
                    if failures == 1:
                        goes_on = "it is" if is_ending else "the training goes on, and it is"
                        log.warning("nothing can be stored: %s; %s tried again", self.error, goes_on)
                    if tries_at_end == _TRIES_AT_END:
                        return
                    wait = self.first_wait * 2 ** min((tries_at_end if is_ending else failures) - 1, 20)
                    (time.sleep if is_ending else self._ending.wait)(min(wait, _LONGEST_WAIT))
                    continue
                if failures and not is_ending:
                    log.info("stored again, after %s in vain", "one try" if failures == 1 else f"{failures:,} tries")
                self.error, failures, self._seen = None, 0, seen
                if is_ending:
                    return
            self._ending.wait(pause)

    def _know_what_is_stored(self) -> None:
        """Files of this size and time are those that were stored by an earlier start, or brought back from there."""
        entries = {} if self.store.last is None else self.store.last.files
        for name, stat in look(self.folder, everything=True).items():
            if name in entries and (entries[name].size, entries[name].mtime_ns) == (stat.st_size, stat.st_mtime_ns):
                self._known[name] = key_of(stat)


def about_run(folder: Path) -> dict[str, Any]:
    """What the manifest of a run says of it: nothing where there is none (yet)."""
    from metronome.runs.folders import RunFolder

    run = RunFolder(folder)
    return {"overrides": run.overrides, "status": run.status} if (folder / CONFIG_FILE).is_file() else {}
