"""Having a job started again when its time ends or it is preempted: by one of those who could, and once.

A cluster says so by a signal some seconds before it ends the job. Lightning's plugin for SLURM listens to SIGUSR1 and
would call `scontrol requeue`; submitit, which starts the jobs of a sweep, listens to SIGUSR2 with a handler that
pickles the job again, keeps count of its timeouts, calls the same, and leaves wherever the signal met it. Here both are
only noted, and when the step is saved one is asked: submitit where it has started the process, because it must know,
else SLURM.
"""

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

log = logging.getLogger("metronome.training")

EXIT_TOLD_TO_STOP = 143


class Submitit(NamedTuple):
    """What submitit has put in place in a process that it has started."""

    number: int
    handler: Callable[..., Any]


def submitit_here() -> Submitit | None:
    """Submitit's handler, and the signal that it listens to; None in processes that it has not started."""
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    number = getattr(signal, f"SIG{name}", None)
    if "SUBMITIT_EXECUTOR" not in os.environ or number is None:
        return None
    handler = signal.getsignal(number)
    owner = type(getattr(handler, "__self__", None)).__module__
    return Submitit(number, handler) if callable(handler) and owner.startswith("submitit.") else None


def start_again(submitit: Submitit | None) -> int:
    """Have this job started again, when the cluster can. In one process of the job only.

    Returns:
        The exit code that tells who has started this process that it has been asked for.
    """
    if submitit is None:
        _ask_slurm()
        return EXIT_TOLD_TO_STOP
    try:
        submitit.handler(submitit.number, None)
    except SystemExit as end:
        log.info("the job is started again")
        return end.code if isinstance(end.code, int) and end.code > 0 else EXIT_TOLD_TO_STOP
    except Exception as error:
        reason = " ".join(str(error).split())
        more = "; allow more with hydra.launcher.max_num_timeout" if "too many times" in reason else ""
        log.warning("the job is not started again: %s%s", reason, more)
    return EXIT_TOLD_TO_STOP


def _ask_slurm() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        # In a session of its own: SLURM ends the processes of the job before it starts it again, and this one is to
        # have said so by then.
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, start_new_session=True
        )
        reason = done.stderr.strip() if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason is None:
        log.info("SLURM starts job %s again", job)
    else:
        log.warning("SLURM did not requeue job %s: %s", job, reason)


@contextmanager
def started_again_when_told(stop: Callable[[], None]) -> Iterator[None]:
    """In a process that lets others train: told of the job's end it has them stop, which they do when they have saved,
    and the job started again.

    Args:
        stop: tells them.
    """
    submitit, told = submitit_here(), False

    def note(*_: object) -> None:
        nonlocal told
        told = True
        stop()

    if submitit is not None:
        signal.signal(submitit.number, note)
    try:
        yield
    except SystemExit:
        if told:
            raise SystemExit(start_again(submitit)) from None
        raise
    finally:
        if submitit is not None:
            signal.signal(submitit.number, signal.SIG_IGN if told else submitit.handler)
