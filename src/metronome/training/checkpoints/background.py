"""Checkpoints written beside the training: copied when they are saved, and written by a thread while steps go on."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from metronome.training.checkpoints.copies import Copies, Memory

log = logging.getLogger("metronome.training")

_taker: "Group | None" = None  # who takes what is written now


def taken(checkpoint: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> bool:
    """Whether a checkpoint is written later, by a thread; else who asks is to write it now.

    Args:
        checkpoint: what is to be written, as it is now; copied if it is taken.
        write: writes it. With several processes each of which writes, it may use a process group of its own alone.
    """
    return _taker is not None and _taker.take(checkpoint, write)


class Group:
    """The checkpoints of one moment, and the older ones that go when they are whole: all of it, or up to an error.

    Args:
        memory: to copy to.

    Attributes:
        books: what was known of the checkpoints before.
        error: what has ended it; nothing older was removed then.
    """

    def __init__(self, books: dict[str, Any], memory: Memory) -> None:
        self.books = books
        self.error: BaseException | None = None
        self.path = ""  # that is being written
        self.is_told = False
        self.saves = 0
        self._paths: list[str] = []
        self._writes: list[Callable[[], None]] = []
        self._removals: list[Callable[[], None]] = []
        self._copies: Copies | None = Copies(memory)
        self._thread: threading.Thread | None = None

    @contextmanager
    def saving(self, path: str) -> Iterator[None]:
        """While it lasts, what is written is taken."""
        global _taker
        self.saves, self._paths, _taker = self.saves + 1, [*self._paths, path], self
        try:
            yield
        finally:
            _taker = None

    def take(self, checkpoint: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> bool:
        assert self._copies is not None
        path = self._paths[-1]
        try:
            copied, arrive = self._copies.of(checkpoint)
        except Exception as error:
            log.debug("checkpoint %s is written at once, since it cannot be copied: %s", path, error)
            return False

        def do() -> None:
            self.path = path
            arrive()
            write(copied)

        self._writes.append(do)
        return True

    def remove_afterwards(self, remove: Callable[[], None]) -> None:
        self._removals.append(remove)

    def start(self) -> None:
        """Nothing more is taken; what was is written."""
        self._copies = None
        if not self._writes:
            self._run()
            return
        # A program that ends waits for it.
        self._thread = threading.Thread(target=self._run, name="checkpoint")
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._writes:
                self._writes.pop(0)()  # its copy goes with it
        except BaseException as error:
            self.error = error
            self._writes.clear()
            return
        for remove in self._removals:
            try:
                remove()
            except OSError as error:
                log.warning("an older checkpoint could not be removed: %s", error)

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()


class Lost(Exception):
    """What was written beside the training has failed; the books are as they were before it."""


class Beside:
    """What of a callback's checkpoints is being written: at most the group of one moment.

    The first moment of a start is written at once: it shows that saving works, and from then on the folder is this
    start's.
    """

    def __init__(self, is_on: bool) -> None:
        self.is_on, self.has_saved = is_on, False
        self.open: Group | None = None  # that of the moment at hand
        self.pending: Group | None = None
        self.memory = Memory()

    @contextmanager
    def moment(self, books: dict[str, Any]) -> Iterator[None]:
        """What is saved while it lasts becomes a group. An error ends it, and nothing of it is written."""
        self.open = Group(books, self.memory) if self.is_on and self.has_saved else None
        try:
            yield
            if self.open is not None and self.open.saves:
                self.pending = self.open
                self.pending.start()
        finally:
            self.open = None

    def take_pending(self) -> Group | None:
        """The group that was being written, which has ended now."""
        group, self.pending = self.pending, None
        if group is not None:
            group.wait()
            self.memory.turn_over()
        return group


def wait_for_all(trainer: Any) -> None:
    """What is saved next tells of what the callbacks have saved, so that is on the disk first. All devices must call it
    together."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(getattr(callback, "beside", None), Beside):
            callback.wait(trainer)
