"""Runs the project's scripts as a user does, in this process: imports are paid for once."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

PROJECT = Path(__file__).parents[2]


@dataclass
class Done:
    """What a command left: exit code, output, and the results of the runs it made, in the order of their folders."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def jobs(self) -> list[str]:
        """What is said of each job of a sweep, in one line; what stands below them is about the whole."""
        table = self.out.split("\n\n")[0]
        return [" ".join(job.split()) for job in re.split(r"^(?= *\d+/\d+ )", table, flags=re.MULTILINE)[1:]]

    @property
    def runs(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("runs/**/result.json"))

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads((run / "result.json").read_text()) for run in self.runs]

    @property
    def result(self) -> dict[str, Any]:
        (result,) = self.results
        return result

    @property
    def run(self) -> Path:
        (run,) = self.runs
        return run


class Commands:
    """`commands("train", "+experiment=linear", ...)` in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
        self.folder, self.monkeypatch, self.capfd = folder, monkeypatch, capfd

    def __call__(self, script: str, *arguments: str) -> Done:
        path = PROJECT / "scripts" / f"{script}.py"
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        self.capfd.readouterr()
        code = 0
        with self.monkeypatch.context() as patch:
            if not any("+study=" in argument or "hydra.mode=" in argument for argument in arguments):
                # Hydra composes a job twice, first for hydra.mode alone: this saves half.
                patch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)
            try:
                runpy.run_path(str(path), run_name="__main__")
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = self.capfd.readouterr()
        return Done(code, out, err, self.folder)


def run_apart(folder: Path, script: str, *arguments: str, project: Path = PROJECT, **environment: str) -> Done:
    """The same in a process of its own, from nothing: `forked.run_forked` does not wait for the imports."""
    command = [sys.executable, str(project / "scripts" / f"{script}.py"), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    return Done(done.returncode, done.stdout, done.stderr, folder)


@contextmanager
def a_process_in(folder: Path) -> Iterator[None]:
    """Another process that works in the folder."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until something that another process does is done."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)
