"""Signals: what they ask of a run, noted while a step is made."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from metronome.training.guards.clusters.requeue import Submitit, start_again, submitit_here
from metronome.training.lightning_private import SignalConnectorBase


class Request(IntEnum):
    """What a signal asks of a device. The devices do what the largest of theirs says."""

    NOTHING = 0
    INTERRUPT = 1  # SIGINT
    END = 2  # SIGTERM
    REQUEUE = 3  # the signal by which a cluster announces the end of a job


class SignalConnector(SignalConnectorBase):
    """Lightning's signal connector, whose handlers only take a note while steps are taken.

    Lightning's broadcast, or save a checkpoint, wherever the signal happens to meet the process: in the middle of a
    step, or of a collective of the other devices, and hang. Here the devices ask each other before each step. A second
    SIGINT does not wait.
    """

    request = Request.NOTHING
    _waits = False
    _process = 0
    _submitit: Submitit | None = None
    _is_started_again = False

    @contextmanager
    def waiting_for_the_step(self) -> Iterator[None]:
        """While it lasts, a signal is only noted. Before and after it stops the process at once."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def register_signal_handlers(self) -> None:
        self.request, self._process = Request.NOTHING, os.getpid()
        super().register_signal_handlers()
        self._submitit = submitit_here()
        if self._submitit is not None:
            self._register_signal(self._submitit.number, self._slurm_sigusr_handler_fn)
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
        if os.getpid() != self._process:  # a worker of a loader, which has the handlers of whom it was forked from
            return
        self.request = Request.REQUEUE
        if not self._waits and self.trainer.is_global_zero:  # the others end with it
            raise SIGTERMException(self.start_again())

    def start_again(self) -> int:
        """Have the job started again, and hear no more of its end; the exit code that tells of it."""
        self._is_started_again = True
        return start_again(self._submitit)

    def teardown(self) -> None:
        super().teardown()
        if self._is_started_again:  # the handlers from before would ask for it once more
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                self._register_signal(number, signal.SIG_IGN)
