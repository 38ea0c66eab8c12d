"""What a process does in which steps are measured: build the training as it is configured, begin it, and tell."""

import logging
import os
import sys
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from metronome.app.config.build import Job, build_job
from metronome.app.console.output import quiet
from metronome.app.errors.messages import cannot_go_on, mistake
from metronome.app.measure.watch import Enough, WatchSteps
from metronome.training.guards.memory import free_memory, is_out_of_memory


@dataclass(frozen=True)
class Request:
    """A training to begin.

    Attributes:
        config: resolved, in plain containers; what it writes it writes below its `run_dir`.
        overrides: what was typed.
        seconds: of steps to be measured.
        validates: whether a validation is, too.
        environment: variables to set, for several processes that are to meet.
    """

    config: dict[str, Any]
    overrides: list[str]
    seconds: float
    validates: bool = True
    environment: dict[str, str] = field(default_factory=dict)


def work(request: Request, folder: str, path: list[str], answer: Any) -> None:
    """In a process of its own: measure, and send the numbers, or `mistake`, `out_of_memory` or `traceback`.

    Args:
        folder: to work in.
        path: where to look for modules.
        answer: of `multiprocessing.Pipe`.
    """
    os.environ.update(request.environment)
    rank_zero_only.rank = int(request.environment.get("LOCAL_RANK", "0"))
    sys.path[:] = path
    os.chdir(folder)
    _keep_quiet()
    try:
        found = measured(request)
    except BaseException as error:
        line = mistake(error)
        found: dict[str, Any] = {"mistake": line, "failed": cannot_go_on(error)}
        if is_out_of_memory(error) or (line or "").startswith("out of memory"):  # the step says in which it was
            found = {"out_of_memory": True}
        elif line is None:
            found["traceback"] = "".join(traceback.format_exception(error))
    if not found.get("on_gpu") and "memory" in found:
        # Of the libraries' code a fork counts only what it has used; a run counts what was loaded with it.
        shared = max(_code_in_memory(os.getppid()) - _code_in_memory(os.getpid()), 0)
        found["memory"] |= {name: found["memory"][name] + shared for name in ("before", "peak")}
    answer.send(found)
    answer.close()
    os._exit(0)  # other processes of the training may wait for this one to take its part of a step that is not made


def measured(request: Request) -> dict[str, Any]:
    """The numbers of `WatchSteps`."""
    watch = WatchSteps(request.seconds, request.validates)
    job = build_job(request.config, request.overrides, [watch])
    _begin(job)
    return watch.result(job.trainer)


def _begin(job: Job) -> None:
    try:
        job.trainer.fit(job.model, datamodule=job.data)
    except Enough:
        free_memory()


def _code_in_memory(process: int) -> int:
    """Bytes of files, of a process's resident memory; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))
    except (OSError, StopIteration):
        return 0


def _keep_quiet() -> None:
    """Whatever is said of these steps is not what the command is asked for; errors are told by the answer."""
    quiet()
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
