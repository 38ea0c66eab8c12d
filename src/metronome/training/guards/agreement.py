"""What the devices of a run tell each other between two steps, so that all do the same after the same step."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from metronome.training.checkpoints.callback import Checkpoint
from metronome.training.guards.signals import Told, requeue
from metronome.units import RunFailed

if TYPE_CHECKING:
    from metronome.training.trainer import Trainer

log = logging.getLogger("metronome.training")


class Meeting:
    """The devices of a trainer, asked together. All must call each of these together."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self._group: Any = None

    def before_step(self) -> None:
        """Stop, or save, if any device has been told to, or fail, if one has found a step that was not finite."""
        trainer, saves = self.trainer, self.checkpoints
        trainer.watch.look_back()
        due = trainer.is_global_zero and any(save.is_due(trainer) for save in saves)
        told, due, nonfinite = self.largest(self._told, int(due), int(trainer.watch.has_found))
        if nonfinite:
            trainer.settle()
            raise RunFailed("a step was not finite on another device")  # where each has a part of the gradient only
        if told:
            self._stop(Told(told))
        if due:
            for save in saves:
                save.save_last_if_due(trainer)

    def stop_if_told(self, may_save: Callable[[], bool] = lambda: True) -> None:
        """Between the batches of a validation too, which may be long; unless the model must not be saved there."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            (told,) = self.largest(self._told)
            if told and may_save():
                self._stop(Told(told))

    def any(self, flag: bool) -> bool:
        """Whether it is true on any device."""
        return bool(self.largest(int(flag))[0])

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over all devices."""
        trainer = self.trainer
        if trainer.world_size == 1:
            return list(numbers)
        if self._group is None and trainer.strategy.root_device.type != "cpu":
            # On the CPU, so that no device has to be waited for.
            self._group = torch.distributed.new_group(backend="gloo")
        table = torch.tensor(numbers)
        torch.distributed.all_reduce(table, torch.distributed.ReduceOp.MAX, group=self._group)
        return table.tolist()

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The callbacks that save."""
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Checkpoint)]  # pyright: ignore

    @property
    def _told(self) -> Told:
        return self.trainer._signal_connector.told

    def _stop(self, told: Told) -> NoReturn:
        trainer = self.trainer
        trainer._signal_connector.told = Told.NOTHING
        if not trainer.sanity_checking:
            for save in self.checkpoints:
                save.save_last_now(trainer)
            log.info("told to stop: saved and stopped after step %s", f"{trainer.global_step:,}")
        if told is Told.REQUEUE and trainer.is_global_zero:
            requeue()
        raise KeyboardInterrupt if told is Told.INTERRUPT else SIGTERMException
