"""Hosts that watch each other: one that falls silent ends the others, which would else wait for it in a collective.

A process that is killed closes its connections, and gloo tells those who wait for it at once. A host that loses its
power or its network closes nothing: gloo would wait for half an hour, NCCL for ten minutes. So the first process of
each host says each second that it is there, and looks for the others, in threads that no step waits for.
"""

import os
import sys
import threading
import time
from datetime import timedelta
from textwrap import fill
from typing import Any, NoReturn

from metronome.app.errors.exits import EXIT_FAILED
from metronome.app.errors.lost import gone

_SECONDS = 60.0  # of silence: some calls keep all threads of a process waiting, though not as long
_PAUSE = 1.0  # between two looks
_DONE = "done"


class Watch:
    """From here on, until `end` or the end of this process."""

    def __init__(self, host: int, hosts: int, address: str, port: int) -> None:
        self.host, self.others = host, [other for other in range(hosts) if other != host]
        self._place = address, port
        self._over = threading.Event()
        self._heard: dict[int, float] = dict.fromkeys(self.others, time.monotonic())
        self._asked = time.monotonic()
        self._done: set[int] = set()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._speak, self._judge)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """The run is done here."""
        self._over.set()
        self._threads[0].join(timeout=10)

    def _speak(self) -> None:
        try:
            store = _store(*self._place)
            before: dict[int, str] = {}
            count = 0
            # The store ends with the first host's process, which waits until all are done.
            while not self._over.is_set() or (self.host == 0 and len(self._done) < len(self.others)):
                count += 1
                store.set(_key(self.host), str(count))
                for other in self.others:
                    said = store.get(_key(other)).decode() if store.check([_key(other)]) else ""
                    if said == _DONE:
                        self._done.add(other)
                    if said != before.get(other):
                        self._heard[other], before[other] = time.monotonic(), said
                self._asked = time.monotonic()
                if not self._over.wait(_PAUSE):
                    continue
                time.sleep(0.02)
            store.set(_key(self.host), _DONE)
        except RuntimeError:  # as PyTorch's store says that the first host is gone
            if not self._over.is_set():
                time.sleep(10)  # who is in a step meets it too, and tells it with the rest of its result
                self._end_without("host 0 is gone")

    def _judge(self) -> None:
        while not self._over.wait(_PAUSE):
            now = time.monotonic()
            silent = [host for host in self.others if host not in self._done and now - self._heard[host] > _SECONDS]
            if now - self._asked > _SECONDS:
                silent = [0]
            if silent:
                self._end_without(f"host {silent[0]} has been silent for {_SECONDS:g} s")

    def _end_without(self, what: str) -> NoReturn:
        if not self._over.is_set():
            line = f"error: {gone(what)}"
            print(fill(line, 80, subsequent_indent="  ") if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
        os._exit(EXIT_FAILED)


def _store(address: str, port: int) -> Any:
    """A connection of its own: one call at a time goes over each, and some wait."""
    from torch.distributed import TCPStore  # pyright: ignore

    return TCPStore(address, port, None, False, timeout=timedelta(seconds=_SECONDS), wait_for_workers=False)


def _key(host: int) -> str:
    return f"metronome/alive/{host}"
