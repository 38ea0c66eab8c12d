"""Around the passes over a batch: out of memory they are done again in finer pieces, and a step may be left out."""

import logging
from typing import Any

import lightning as L
from torch import Tensor

from metronome.training.batches.shares import Shares
from metronome.training.guards.late_averaging import average_gradients, gradients_there, share_buffers
from metronome.training.guards.memory import free_memory, is_out_of_memory, one_line
from metronome.training.guards.nonfinite import Watch
from metronome.training.guards.put_back.in_place import ChangedInPlace
from metronome.training.guards.put_back.undo import Undo
from metronome.training.logged.metrics import ListsSoFar
from metronome.training.state import TrainingState
from metronome.units import InputError, RunFailed

log = logging.getLogger("metronome.training")

_TOO_FEW = "Expected more than 1 value per channel when training"  # what torch says


def explained(trainer: L.Trainer, step: Any, batch: Any) -> Any:
    """The passes; where memory is short, or a layer was given too few samples, one line that says what to do.

    Raises:
        RunFailed: that line, for want of memory.
        InputError: for a micro-batch of one sample in a layer that looks across samples.
    """
    try:
        return step.passes(batch)
    except Exception as error:
        check_samples_suffice(trainer, batch, error)
        if not is_out_of_memory(error):
            raise
        raise RunFailed(
            f"out of memory in step {trainer.global_step + 1:,} ({one_line(error)}); use "
            "trainer.accumulate_grad_batches=auto, or cut the batch into more than "
            f"{len(batch.sizes)} micro-batches"
        ) from error


def check_samples_suffice(trainer: L.Trainer, batch: Any, error: Exception) -> None:
    """Raises InputError in place of what a layer such as BatchNorm says to one sample, which has no variance."""
    if _TOO_FEW not in str(error) or min(batch.sizes) > 1:
        return
    parts = len(batch.sizes)
    advice = "leave a last, smaller batch out with data.drop_last=true, or take another data.batch_size"
    if parts > 1 and batch.share_samples >= parts:
        advice = f"use fewer micro-batches than trainer.accumulate_grad_batches={parts}, or data.drop_last=true"
    raise InputError(
        f"a layer that looks across samples (BatchNorm, say) was given one sample alone in step "
        f"{trainer.global_step + 1:,}, whose batch of {batch.batch_samples:,} is cut in {parts * trainer.world_size:,} "
        f"({trainer.world_size} devices x {parts} micro-batches); {advice}"
    ) from error


class PassesThatCanBeUndone:
    """Passes that are done again in finer pieces where memory is short (`auto`), or whose step is left out (`skip`).

    Args:
        trainer: whose steps they are.
        state: of the training.
        shares: how batches are cut.
        watch: which says what step is left out.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState, shares: Shares, watch: Watch) -> None:
        self.trainer, self.state, self.shares, self.watch = trainer, state, shares, watch
        self._undo: Undo | None = None
        self._lists: ListsSoFar = {}
        self._in_place = ChangedInPlace(trainer)

    def __call__(self, step: Any, batch: Any) -> Any:
        """Every micro-batch forward and backward; in finer pieces for as long as memory is short."""
        trainer, module, finer = self.trainer, self.trainer.lightning_module, False
        device = trainer.strategy.root_device
        undo = self._undo = Undo(module, step.results, self.state.counters, device, self._lists)
        if not self.state.auto_accumulate:
            return explained(trainer, step, batch)
        self._in_place.remember(batch.share)
        while True:
            reason, passes = None, None
            try:
                passes = step.passes(batch)
            except Exception as error:
                check_samples_suffice(trainer, batch, error)
                if not is_out_of_memory(error) or not self.state.is_under_way:
                    raise  # to those who try what fits
                reason = one_line(error)
            # The error is gone by now, and with it the frames that held on to memory.
            is_short, *has_gradient = self.watch.agreement.largest(int(reason is not None), *gradients_there(module))
            if not is_short:
                break
            undo()
            self._in_place.put_back()
            for parameter in module.parameters():
                parameter.grad = None
            free_memory()
            self.shares.cut_finer(batch.batch_samples, batch.largest, reason)
            step.cut(batch)
            finer = True
        self._in_place.learn()
        if finer:
            self._take_down(batch.sizes)
        if trainer.world_size > 1:
            average_gradients(module, has_gradient)
            share_buffers(trainer.strategy.model)
        return passes

    def may_update(self, loss: Tensor) -> bool:
        """Whether the watch allows it; if not, nothing of what was learnt from the batch stays."""
        if self.watch.allows(loss):
            return True
        assert self._undo is not None
        self._undo.forget()
        return False

    def _take_down(self, sizes: list[int]) -> None:
        step = self.trainer.global_step + 1
        found = {"accumulate_grad_batches": self.state.accumulate, "micro_batch_size": max(*sizes, 1)}
        self.state.out_of_memory.append({"step": step, **found})
        log.warning(
            "out of memory in step %s: each device now takes its share of a batch in %d micro-batches of up to %d "
            "samples; the step was done again, and the result stays the same",
            f"{step:,}", len(sizes), max(*sizes, 1),
        )  # fmt: skip
