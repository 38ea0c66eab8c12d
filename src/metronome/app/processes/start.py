"""A run on several devices: one process for each, started together, watched, and ended together.

Lightning would run the command line again in each process, which in a sweep means the whole sweep. Here each process
reads the run's config.yaml instead, and none of them is the process that started them: a job that dies leaves the
rest of a sweep alone, and nothing of a job stays behind for the next one.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from lightning.fabric.plugins.environments.lightning import find_free_network_port

from metronome.app.errors.exits import EXIT_FAILED, EXIT_SIGINT, EXIT_SIGTERM
from metronome.app.errors.lost import lost_company
from metronome.app.errors.messages import cannot_go_on, mistake, one_line
from metronome.app.run.claim import Run
from metronome.runs.names import CONFIG_FILE
from metronome.training import Trainer
from metronome.training.guards.clusters.requeue import started_again_when_told
from metronome.training.lightning_private import processes_of
from metronome.units import InputError, RunFailed

_REPORTS = "METRONOME_REPORTS"  # the folder where a process that fails says why
_PARENT = "METRONOME_PARENT"  # the process that started them
_GRACE_SECONDS = 10


class ProcessFailed(RuntimeError):
    """A process of a run died; its traceback has been shown."""


def processes_to_start(trainer: Trainer) -> int:
    """How many processes this one must start for the training; 0 if it trains itself or another program starts them.

    Raises:
        InputError: for a strategy that forks or spawns: its processes take what they did with them when they end; for
            several nodes that do not know of each other.
    """
    count = processes_of(trainer)
    if count is None:
        raise InputError(
            "a strategy that forks or spawns leaves no counts behind for the result; use trainer.strategy=ddp"
        )
    if count and trainer.num_nodes > 1 and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"trainer.num_nodes={trainer.num_nodes}, and nothing says where the first node is; start with torchrun or "
            "srun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node"
        )
    return count


def run_processes(run: Run, count: int) -> None:
    """Train in `count` processes, and wait for them.

    Raises:
        InputError, RunFailed: for what one of them met that takes one line to tell.
        ProcessFailed: if one of them failed otherwise.
        SystemExit, KeyboardInterrupt: if they were told to stop.
    """
    environment = os.environ | {
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(find_free_network_port()),
        # The modules of a user may lie beside the script.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    command = [sys.executable, "-m", "metronome.app.worker", str(run.folder), json.dumps(run.start.as_dict())]
    with tempfile.TemporaryDirectory() as reports:
        environment |= {_REPORTS: reports, _PARENT: str(os.getpid())}
        (Path(reports) / CONFIG_FILE).write_text(run.text)  # in the folder there may be another yet
        processes = [
            # In a session of their own: whoever interrupts this process, a terminal or not, they hear it once.
            subprocess.Popen(command, env=environment | {"LOCAL_RANK": str(rank)}, start_new_session=True)
            for rank in range(count)
        ]
        handler = signal.signal(signal.SIGTERM, lambda *_: _signal_all(processes, signal.SIGTERM))
        with started_again_when_told(lambda: _signal_all(processes, signal.SIGTERM)):
            try:
                _wait(processes)
            except KeyboardInterrupt:
                _signal_all(processes, signal.SIGINT)
                _wait(processes)
                raise
            finally:
                signal.signal(signal.SIGTERM, handler)
                _signal_all(processes, signal.SIGKILL)
            _raise_what_it_came_to(Path(reports), processes)


def end_with_parent() -> None:
    """In a process of a run: end when the process that started it is gone, however and whenever that ended."""
    parent = int(os.environ[_PARENT])  # it may be gone already

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(EXIT_FAILED)

    threading.Thread(target=watch, daemon=True).start()


def config_file(folder: Path) -> Path:
    """In a process of a run: its configuration."""
    return Path(os.environ.get(_REPORTS, folder)) / CONFIG_FILE


def report_failure(error: BaseException) -> None:
    """In a process of a run: leave word of why it fails."""
    if not (folder := os.environ.get(_REPORTS)):
        return
    lost = lost_company(error)
    line = mistake(error) if lost is None else None
    text = None if line or lost else "".join(traceback.format_exception(error))
    report = {
        "time": time.time(), "lost": lost, "mistake": line, "error": one_line(error), "traceback": text,
        "failed": cannot_go_on(error),
    }  # fmt: skip
    (Path(folder) / f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(report))


def _wait(processes: list[subprocess.Popen]) -> None:
    """Until all have ended; once one has failed, the others soon follow or are ended."""
    failed_at = None
    # Each of them is asked each time: one that waits for another to begin must not hide that the other is dead.
    while None in (codes := [process.poll() for process in processes]):
        time.sleep(0.05)
        if failed_at is None and any(codes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS:
            # They may hang in a collective that the dead one will never join.
            _signal_all(processes, signal.SIGKILL)


def _signal_all(processes: list[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _raise_what_it_came_to(reports: Path, processes: list[subprocess.Popen]) -> None:
    """Raise what the processes' ends amount to. The first to fail knows why; the others only lost its company."""
    found = sorted((json.loads(path.read_text()) for path in reports.glob("*.json")), key=lambda r: r["time"])
    if known := next((report for report in found if report["mistake"]), None):
        raise (RunFailed if known["failed"] else InputError)(known["mistake"])
    codes = [process.returncode for process in processes]
    if own := [report for report in found if not report["lost"]]:
        print(own[0]["traceback"], file=sys.stderr)
        raise ProcessFailed(own[0]["error"])
    # Told to stop: in the training they end with a code of their own, before it by the signal.
    for signalled, code in ((signal.SIGTERM, EXIT_SIGTERM), (signal.SIGINT, EXIT_SIGINT)):
        if {-signalled, code} & set(codes):
            raise SystemExit(code)
    if found:
        # These only lost the company of one that could not say why.
        raise RunFailed(found[0]["lost"])
    if any(codes):
        rank = next(i for i, code in enumerate(codes) if code)
        raise ProcessFailed(f"process {rank} of {len(codes)} ended with code {codes[rank]}")
