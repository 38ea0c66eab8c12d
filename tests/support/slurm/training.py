"""What happens to a job in the middle of its training: once, after a certain step, so that no test waits for a time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import lightning as L


class Happens(L.Callback):
    """After a step of the first start of a job.

    Args:
        step: after which.
        what: `announced`: the signal that its script asks for, some seconds before the end of its time; `preempted`:
            SLURM requeues it by itself; `told`: SIGUSR2 to this process, as submitit's on this machine.
        signal: of an announcement.
        mark: a folder, in which a file for each job says that it has happened.
    """

    def __init__(self, step: int, what: str, mark: str, signal: str = "USR2") -> None:
        self.step, self.what, self.mark, self.signal = step, what, Path(mark), signal

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step != self.step or not trainer.is_global_zero:
            return
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID") or "alone"
        self.mark.mkdir(exist_ok=True, parents=True)
        if (mark := self.mark / job).exists():
            return
        mark.touch()
        if self.what == "told":
            # The process that submitit has started is this one, or the one that has started it.
            parent = os.environ.get("METRONOME_PARENT")
            os.kill(os.getpid() if parent is None else int(parent), signal.SIGUSR2)
        elif self.what == "announced":
            _from_outside("scancel", job, "--signal", self.signal)
        else:
            _from_outside("scontrol", "requeue", job)
        end = time.monotonic() + 60
        while not trainer._signal_connector.request and time.monotonic() < end:  # pyright: ignore
            time.sleep(0.01)  # steps are short, and the training would be over before the signal is here


def _from_outside(*command: str) -> None:
    """Not by a process of the job, which the signals would reach."""
    subprocess.run(command, check=True, start_new_session=True)
