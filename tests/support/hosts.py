"""Hosts on this machine: network, process and mount namespaces, with addresses of their own and a bridge between them.

Each host is one process that waits; what runs on it dies with it, as when a machine loses its power, and all of it is
gone when the test's process is, however that ends: they wait for the end of a pipe.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT

_SPACES = ["--net", "--pid", "--mount", "--uts"]
PORT = 29_500


class Host:
    """A host with the address `10.77.0.<number>`, from 1 up.

    `by_name`: hosts know each other by name, as where there is a name server; else each only itself, as 127.0.1.1, as
    Debian makes it.
    """

    def __init__(self, number: int, root: Path, prefix: list[str], by_name: bool) -> None:
        self.number, self.address, self.root = number, f"10.77.0.{number}", root
        self._prefix = prefix
        root.mkdir(parents=True, exist_ok=True)
        names = root / f".names_of_{number}"
        known = [f"10.77.0.{n} host{n}" for n in range(1, 10)] if by_name else [f"127.0.1.1 host{number}"]
        names.write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
        begin = f"hostname host{number}; ip link set lo up; mount --bind '{names}' /etc/hosts; echo; exec cat"
        self._holder = _waiting(
            [*prefix, "unshare", *_SPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c", begin]
        )
        # Of nsenter's, where there is one, unshare is the process itself; the host's first process is its child.
        self.first = int(Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()[0])
        self._commands: list[Command] = []

    def start(self, *command: str, folder: Path | None = None, **environment: str) -> Command:
        """A command on this host, in its folder."""
        enter = [*self._prefix, "nsenter", f"--target={self.first}", *_SPACES, "--"]
        folder = folder or self.root
        go_there = ["sh", "-c", 'cd "$0" && exec "$@"', str(folder)]  # another mount namespace begins at the root
        self._commands.append(Command([*enter, *go_there, *command], folder, environment))
        return self._commands[-1]

    def kill(self) -> None:
        """All of it at once."""
        self._holder.kill()
        self._holder.wait()

    def close(self) -> None:
        self.kill()
        for command in self._commands:
            command.close()


class Command:
    """A command on a host; what it says goes to a file."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = folder / f"said_{len(list(folder.glob('said_*')))}"
        paths = os.pathsep.join([str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")])
        given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        with open(self._file, "wb") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env=os.environ | given | environment, stdout=file, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._file.read_text(errors="replace")

    def wait(self, seconds: float = 600) -> int:
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Network:
    """Hosts joined by a bridge."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._stack = folder, ExitStack()
        self._switch = _waiting([*_as_root(), "unshare", "--net", "sh", "-c", "echo; exec cat"])
        self._stack.callback(_end, self._switch)
        self._prefix = [] if os.geteuid() == 0 else ["nsenter", f"--target={self._switch.pid}", "--user",
                                                     "--preserve-credentials"]  # fmt: skip
        self._do("ip", "link", "add", "switch0", "type", "bridge")
        self._do("ip", "link", "set", "switch0", "up")
        self.hosts: dict[int, Host] = {}

    def add(self, number: int, root: Path | None = None, by_name: bool = False) -> Host:
        """A host, in the place of one of this number that was killed before; `root` is the folder it works in."""
        host = Host(number, root or self.folder, self._prefix, by_name)
        self._stack.callback(host.close)
        end = f"port{number}"
        subprocess.run([*self._in_switch(), "ip", "link", "del", end], capture_output=True)  # that of the one before
        self._do("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(host.first))
        self._do("ip", "link", "set", end, "master", "switch0", "up")
        inside = [*self._prefix, "nsenter", f"--target={host.first}", "--net", "ip"]
        _run([*inside, "addr", "add", f"{host.address}/24", "dev", "eth0"])
        _run([*inside, "link", "set", "eth0", "up"])
        self.hosts[number] = host
        return host

    def unplug(self, number: int) -> None:
        """The host goes on, and nobody reaches it."""
        self._do("ip", "link", "set", f"port{number}", "down")

    def close(self) -> None:
        self._stack.close()

    def _in_switch(self) -> list[str]:
        return [*self._prefix, "nsenter", f"--target={self._switch.pid}", "--net"]

    def _do(self, *command: str) -> None:
        _run([*self._in_switch(), *command])


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """Skips the test where this machine does not allow it."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    made = Network(folder)
    try:
        yield made
    finally:
        made.close()


@cache
def why_not() -> str | None:
    """Why no hosts can be made here; None if they can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    tried = [*_as_root(), "unshare", *_SPACES, "--fork", "--kill-child", "--mount-proc", "sh", "-c",
             "ip link add try0 type bridge && ip link add try1 type veth peer name try2"]  # fmt: skip
    try:
        done = subprocess.run(tried, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces here: {error}"
    return None if done.returncode == 0 else f"no network namespaces here: {done.stderr.strip()}"


def torchrun(nodes: str, rank: int, *arguments: str, processes: int = 1, elastic: str | None = None) -> list[str]:
    """A command line of torchrun; `elastic` is the address of the host at which all meet."""
    begin = [sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", str(processes)]
    if elastic is None:
        begin += ["--node-rank", str(rank), "--master-addr", "10.77.0.1", "--master-port", str(PORT)]
    else:
        begin += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{elastic}:{PORT}"]
    return [*begin, *arguments]


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]


def _waiting(command: list[str]) -> Any:
    """A process that has said a line, and ends when this one does."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


def _end(process: Any) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
