"""The project's scripts in processes of their own, forked from one that has imported everything: no wait of five
seconds for each.

The fork has the environment, folder, arguments and signals of a start from nothing. What is decided by an import, a
variable that is read by one for instance, shows only in a start from nothing: `commands.run_apart`.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from commands import PROJECT, Done

_FORKS = multiprocessing.get_context("forkserver")
# Not the module of a worker, which is run as a script.
_IMPORTED = [
    *("metronome.app.train", "metronome.app.evaluate", "metronome.app.sweeps.study", "metronome.report.write"),
    *("metronome.insight", "metronome.models", "project.data", "project.models", "hydra.main", "sklearn.datasets"),
    *("torch.utils.tensorboard", "lightning.pytorch.loggers.tensorboard"),
]


class Forked:
    """A script that runs: `subprocess.Popen` of `python scripts/train.py ...`, in a session of its own.

    The processes of a run on several devices are forks of it too, unless `cold_workers`.
    """

    def __init__(
        self, folder: Path, script: str | Path, *arguments: str, cold_workers: bool = False, **environment: str
    ) -> None:
        self.folder, self._output = folder, tempfile.TemporaryDirectory()
        path = script if isinstance(script, Path) else PROJECT / "scripts" / f"{script}.py"
        multiprocessing.set_forkserver_preload(_IMPORTED)
        self._process = _FORKS.Process(
            target=_run,
            args=(str(folder), self._output.name, os.environ | environment, cold_workers, [str(path), *arguments]),
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._output.cleanup()

    def poll(self) -> int | None:
        """The exit code, -N after signal N; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 300) -> int:
        self._process.join(seconds)
        code = self.poll()
        assert code is not None, "it should have ended"
        return code

    def kill(self) -> None:
        """With all that it has started, as a machine that goes down does."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ends in this very moment
                os.killpg(self.pid, signal.SIGKILL)
        self._process.join()

    def done(self) -> Done:
        code, output = self.wait(), Path(self._output.name)
        return Done(code, (output / "out").read_text(), (output / "err").read_text(), self.folder)


def run_forked(folder: Path, script: str, *arguments: str) -> Done:
    """`commands.run_apart`, without its wait for imports."""
    with Forked(folder, script, *arguments) as run:
        return run.done()


def _run(folder: str, output: str, environment: dict[str, str], cold_workers: bool, argv: list[str]) -> None:
    """In the fork: what a new process finds."""
    os.setsid()
    os.chdir(folder)
    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    _begin(environment, argv)
    sys.path.insert(0, str(Path(argv[0]).parent))
    if not cold_workers:
        from metronome.app.processes import start

        start.subprocess = SimpleNamespace(Popen=_Worker)  # pyright: ignore
    runpy.run_path(argv[0], run_name="__main__")


def _begin(environment: dict[str, str], argv: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = argv
    gc.freeze()  # a run begins with a full collection, which need not look at what was imported


class _Worker:
    """What the app knows of `subprocess.Popen(["python", "-m", MODULE, ...])`, as a fork of this process."""

    def __init__(self, command: list[str], env: dict[str, str], start_new_session: bool) -> None:
        self.returncode: int | None = None
        _, _, module, *arguments = command
        self.pid = _fork(lambda: _run_worker(module, arguments, env, start_new_session))

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _fork(work: Callable[[], None]) -> int:
    """The process id of a fork that does this and ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_worker(module: str, arguments: list[str], environment: dict[str, str], in_session: bool) -> None:
    import logging

    from lightning.fabric.utilities.rank_zero import rank_zero_only

    if in_session:
        os.setsid()
    _begin(environment, [module, *arguments])
    rank_zero_only.rank = int(environment["LOCAL_RANK"])  # read by an import
    logging.getLogger().handlers.clear()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
