"""Signals: what they ask of a run, noted while a step is made."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from metronome.training.lightning_private import SignalConnectorBase

log = logging.getLogger("metronome.training")


class Request(IntEnum):
    """What a signal asks of a device. The devices do what the largest of theirs says."""

    NOTHING = 0
    INTERRUPT = 1  # SIGINT
    END = 2  # SIGTERM
    REQUEUE = 3  # the signal by which SLURM announces the end of a job's time


class SignalConnector(SignalConnectorBase):
    """Lightning's signal connector, whose handlers only take a note while steps are taken.

    Lightning's broadcast, or save a checkpoint, wherever the signal happens to meet the process: in the middle of a
    step, or of a collective of the other devices, and hang. Here the devices ask each other before each step. A second
    SIGINT does not wait.
    """

    request = Request.NOTHING
    _waits = False

    @contextmanager
    def waiting_for_the_step(self) -> Iterator[None]:
        """While it lasts, a signal is only noted. Before and after it stops the process at once."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def register_signal_handlers(self) -> None:
        self.request = Request.NOTHING
        super().register_signal_handlers()
        interruptible = signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.SIG_DFL, None)
        if interruptible and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, *_: Any) -> None:
        if not self._waits or self.request is Request.INTERRUPT:
            raise KeyboardInterrupt
        self.request = max(self.request, Request.INTERRUPT)
        if self.trainer.is_global_zero:
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")  # what a handler may call

    def _sigterm_notifier_fn(self, signum: Any, _: Any) -> None:
        if not self._waits:
            raise SIGTERMException
        self.request = max(self.request, Request.END)

    def _slurm_sigusr_handler_fn(self, signum: Any, _: Any) -> None:
        self.request = Request.REQUEUE


def requeue() -> None:
    """Have SLURM start this job again, when it can."""
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        reason = done.stderr.strip() if done.returncode else None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason is None:
        log.info("SLURM starts job %s again", job)
    else:
        log.warning("SLURM did not requeue job %s: %s", job, reason)
