"""The processes that torchrun has started for a run, and how they agree on things before they have a process group.

torchrun leaves them a store of keys and values, which it keeps when it starts them again: what a process that is gone
has left there is still to be read, and PyTorch's own start took the addresses of dead processes for those of living
ones (2.13: a restart was lost to it). So the first process opens a store of its own at each start, and the others are
shown there; PyTorch finds it by the same variables as torchrun's.

Imports nothing heavy where torchrun has not started this process.
"""

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from metronome.app.errors.exits import EXIT_FAILED, EXIT_INPUT
from metronome.app.hosts.network import choose_interface
from metronome.app.hosts.watch import Watch
from metronome.units import InputError, RunFailed

_SECONDS = 300  # for all to come: torchrun starts them at once, but imports may take their time
_ROOM = "metronome"
_ENDED, _HEARD = f"{_ROOM}/ended", f"{_ROOM}/heard"


@cache
def company() -> "Company | None":
    """The processes of this run, if torchrun has started this one. All of them must call it.

    Raises:
        InputError: where another command was typed on another host.
    """
    if not is_of_torchrun():
        return None
    met = Company()
    # All that follows they do together; what is a host's own it says by a variable, in the same words.
    met.check_alike(sys.argv[1:], "type the same on each, with '${oc.env:NAME}' for what is a host's own")
    return met


def is_of_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


class Company:
    """The processes that were started together; all make the same calls in the same order.

    Attributes:
        rank, size: of this process, and of how many.
        host, hosts: of this process's host, and of how many.
        is_keeper: whether this is the first process on its host.
        agent: the torchrun that started this process; the same when it starts it again.
        calls: how many they have made.

    Raises:
        RunFailed: where the others do not come.
    """

    def __init__(self) -> None:
        self.rank, self.size = _number("RANK"), _number("WORLD_SIZE", 1)
        self.host, self.hosts = _number("GROUP_RANK"), _number("GROUP_WORLD_SIZE", 1)
        self.is_keeper = _number("LOCAL_RANK") == 0
        self.agent = _agent()
        self.calls = 0
        if self.hosts > 1:
            choose_interface(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        self.store = _meet(self.rank, self.size)
        self._watch = None
        if self.hosts > 1 and self.is_keeper:
            self._watch = Watch(self.host, self.hosts, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))

    def part(self) -> None:
        """The run is done in this process."""
        if self._watch is not None:
            self._watch.end()

    def first_says(self, decide: Callable[[], Any]) -> Any:
        """What the first process decides, for all: plain data. What it cannot decide it tells itself, and the others
        end without a word."""
        key = self._next_key()
        return self._told(key, decide) if self.rank == 0 else self._heard(key)

    def from_hosts(self, look: Callable[[], Any]) -> list[Any]:
        """What the first process of each host sees, in their order; on other processes than the first an empty list."""
        key = self._next_key()
        mine = self._told(f"{key}/{self.host}", look) if self.is_keeper else None
        if self.rank != 0:
            return []
        return [mine, *(self._heard(f"{key}/{host}") for host in range(1, self.hosts))]

    def check_alike(self, mine: list[str], what_to_do: str) -> None:
        """That each host has the same words as the first, in any order. Raises InputError, in the first process."""
        if self.hosts == 1:
            return
        words = [set(some) for some in self.from_hosts(lambda: mine)]

        def check() -> None:
            for host, theirs in enumerate(words):
                if theirs != words[0]:
                    there, here = (
                        ", ".join(sorted(some)) or "nothing" for some in (theirs - words[0], words[0] - theirs)
                    )
                    raise InputError(f"host {host} has {there} where host 0 has {here}; {what_to_do}")

        self.first_says(check)

    def _next_key(self) -> str:
        self.calls += 1
        return f"{_ROOM}/{self.calls}"

    def _told(self, key: str, decide: Callable[[], Any]) -> Any:
        try:
            value = decide()
        except BaseException as error:
            with suppress(RuntimeError):
                self.store.set(_ENDED, str(EXIT_INPUT if isinstance(error, InputError) else EXIT_FAILED))
                self._wait_until_heard()
            raise
        self.store.set(key, json.dumps(value))
        return value

    def _heard(self, key: str) -> Any:
        """However long it takes: it may be a large checkpoint that is fetched. Who is gone closes the store, or has its
        torchrun end the others of its host, or is missed by the watch."""
        pause = 0.005
        try:
            while not self.store.check([key]):
                if self.store.check([_ENDED]):
                    self.store.add(_HEARD, 1)
                    if self.rank == 0:
                        self._wait_until_heard()
                    sys.exit(int(self.store.get(_ENDED)))
                time.sleep(pause)
                pause = min(0.1, 1.2 * pause)
            value = self.store.get(key)
        except RuntimeError as error:  # as PyTorch's store calls what it meets
            raise RunFailed(f"another process of this run is gone: {_first_line(error)}") from error
        return json.loads(value)

    def _wait_until_heard(self) -> None:
        """The store ends with the first process."""
        end = time.monotonic() + 2
        while self.store.add(_HEARD, 0) < self.size - 1 and time.monotonic() < end and self.rank == 0:
            time.sleep(0.02)


def _meet(rank: int, size: int) -> Any:
    """A store that only these processes know: opened by the first, who shows the others there."""
    from torch.distributed import TCPStore  # pyright: ignore

    def store(address: str, port: int, opens: bool) -> Any:
        # As PyTorch will open it again: the same process may open it twice.
        options: Any = {"wait_for_workers": False, "multi_tenant": True, "timeout": timedelta(seconds=_SECONDS)}
        return TCPStore(address, port, None, opens, **options)

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        door = store(address, port, rank == 0 and not is_torchruns)
        if not is_torchruns:
            return door  # it is of this start
        if rank == 0:
            own = store(_own_address(address, port), 0, True)
            _show_in(door, own, f"{own.host} {own.port}", size)
        else:
            me = secrets.token_hex(8)
            door.set(f"{_ROOM}/here/{rank}", me)
            place = door.get(f"{_ROOM}/shown/{me}").decode().split()
            own = store(place[0], int(place[1]), False)
            own.set(me, "")
    except RuntimeError as error:
        raise RunFailed(f"the processes of this run have not met: {_first_line(error)}") from error
    os.environ |= {"MASTER_ADDR": own.host, "MASTER_PORT": str(own.port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    return own


def _show_in(door: Any, own: Any, place: str, size: int) -> None:
    """Until all have come. What stands at the door may be of a process of before, which will not come."""
    shown: dict[int, str] = {}
    missing = set(range(1, size))
    end = time.monotonic() + _SECONDS
    while missing:
        for rank in sorted(missing):
            if rank in shown and own.check([shown[rank]]):
                missing.remove(rank)
            elif door.check([key := f"{_ROOM}/here/{rank}"]) and (name := door.get(key).decode()) != shown.get(rank):
                door.set(f"{_ROOM}/shown/{name}", place)
                shown[rank] = name
        if time.monotonic() > end:
            raise RuntimeError(f"process {min(missing)} of {size} did not come within {_SECONDS} s")
        time.sleep(0.01)


def _own_address(address: str, port: int) -> str:
    """Where the others find this host: its address on the way to torchrun's store, or, where that is here, the name by
    which the others have found it."""
    with socket.create_connection((address, port), timeout=_SECONDS) as way:
        here = way.getsockname()[0]
    return address if here.startswith("127.") or here == "::1" else here


def _agent() -> str:
    """The folder of torchrun's own files is another at each of its starts, and the same when it starts processes."""
    files = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", f"{os.getppid()}/0/0/0")).parents[2]
    return f"{socket.gethostname()}:{files.name}"


def _number(name: str, default: int = 0) -> int:
    return int(os.environ.get(name, default))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
