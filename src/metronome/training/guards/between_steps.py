"""Between two steps: all devices stop, save or fail together, if any of them has a reason to."""

import logging
from collections.abc import Callable
from typing import NoReturn

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from metronome.training.checkpoints.callback import Checkpoint
from metronome.training.guards.agreement import Agreement
from metronome.training.guards.nonfinite import Watch
from metronome.training.guards.signals import Request, SignalConnector

log = logging.getLogger("metronome.training")


class BetweenSteps:
    """What is asked before each step. All devices must call each of these together.

    Args:
        trainer: whose steps they are.
        agreement: of its devices.
        watch: over the loss and the gradient of each step.
        signals: what this device has been asked to do.
    """

    def __init__(self, trainer: L.Trainer, agreement: Agreement, watch: Watch, signals: SignalConnector) -> None:
        self.trainer, self.agreement, self.watch, self.signals = trainer, agreement, watch, signals

    def meet(self) -> None:
        """Stop, or save, if any device has been told to, or fail, if one has found a step that was not finite."""
        trainer, saves = self.trainer, self.checkpoints
        self.watch.look_back()
        due = trainer.is_global_zero and any(save.is_time(trainer) for save in saves)
        # Several devices hear of it a step or a few later, all after the same one: so none waits for another here.
        request, due, nonfinite = self.agreement.exchange(self.signals.request, int(due), int(self.watch.has_found))
        if nonfinite:
            self.watch.settle()
        if request:
            self._stop(Request(request))
        for save in saves:
            if due or save.is_due(trainer):
                save.save_last_if_due(trainer)

    def stop_if_asked(self, may_save: Callable[[], bool]) -> None:
        """Between the batches of a validation too, which may be long; unless the model must not be saved there."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            request, *_ = self.agreement.exchange(self.signals.request, 0, 0)
            if request and may_save():
                self._stop(Request(request))

    def stop_if_asked_by_now(self) -> None:
        """At the end of a fit, where nothing comes after it: what is on its way counts, and all are waited for."""
        on_its_way, *_ = self.agreement.receive() or [0]
        (request,) = self.agreement.largest(max(self.signals.request, on_its_way))
        if request:
            self._stop(Request(request))

    def after_step(self) -> None:
        """Save what is to be saved after a step."""
        for save in self.checkpoints:
            save.after_step(self.trainer)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The callbacks that save."""
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Checkpoint)]  # pyright: ignore

    def _stop(self, request: Request) -> NoReturn:
        trainer = self.trainer
        self.signals.request = Request.NOTHING
        if not trainer.sanity_checking:
            for save in self.checkpoints:
                save.save_last_now(trainer)
            log.info("told to stop: saved and stopped after step %s", f"{trainer.global_step:,}")
        if request is Request.INTERRUPT:
            raise KeyboardInterrupt
        code: tuple[int, ...] = ()
        if trainer.is_global_zero and Request.REQUEUE in (request, self.signals.request):  # or heard while it saved
            code = (self.signals.start_again(),)
        if request is Request.REQUEUE:
            # A task that ends before the job is asked for may make SLURM end all of them.
            self.agreement.largest(0)
        raise SIGTERMException(*code)
