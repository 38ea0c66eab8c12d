"""A checkpoint that does not fit the training that is to go on from it: said in one line, before a step is made."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from metronome.training.checkpoints.averaging import averaging, go_on_in_mid_epoch, is_renewing_batch_norm
from metronome.training.checkpoints.handing_over import hand_over
from metronome.training.lightning_private import CheckpointConnectorBase
from metronome.units import InputError


class CheckpointConnector(CheckpointConnectorBase):
    """Lightning's checkpoint connector, which tells what in a checkpoint is not of this training.

    PyTorch takes the state of another optimizer or scheduler as it comes, and fails in a later step, or not at all.
    What may change is the plan: from the first step on, the rates are those of the one that the run now has.

    Raises:
        InputError: for a state of another optimizer or scheduler, or one that is damaged.
    """

    def restore_model(self) -> None:
        # Lightning converts the module later, and what was loaded into less precise weights would be rounded.
        precision = self.trainer.precision_plugin
        if self._loaded_checkpoint and isinstance(precision, DoublePrecision | HalfPrecision):
            precision.convert_module(self.trainer.lightning_module)
        super().restore_model()

    def restore_training_state(self) -> None:
        try:
            super().restore_training_state()
        except InputError:
            raise
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise self._misfit(
                f"the state in it does not fit this training ({type(error).__name__}: {error})"
            ) from error

    def restore_callbacks(self) -> None:
        """A callback that averages weights puts those in place that it was trained with, in a test too; but what is
        tested is what the checkpoint has for its weights."""
        if self.trainer.state.fn == TrainerFn.FITTING and self._loaded_checkpoint:
            hand_over(self._loaded_checkpoint.get("callbacks", {}), self.trainer.checkpoint_callbacks)
        module = self.trainer.lightning_module
        is_read_only = self.trainer.state.fn != TrainerFn.FITTING and self._loaded_checkpoint
        tensors = [*module.parameters(), *module.buffers()] if is_read_only else []
        kept = [tensor.detach().clone() for tensor in tensors]
        callbacks: list[Any] = self.trainer.callbacks  # pyright: ignore
        averages = any(isinstance(callback, WeightAveraging) for callback in callbacks)
        if not is_read_only and not averages and "current_model_state" in (self._loaded_checkpoint or {}):
            raise self._misfit(
                "its weights are an average of those that were trained (callbacks=ema or swa, or Lightning's own), and "
                "this training has no such callback"
            )
        super().restore_callbacks()
        for tensor, value in zip(tensors, kept, strict=True):
            if not torch.equal(tensor, value):
                tensor.data.copy_(value)

    def restore_loops(self) -> None:
        super().restore_loops()
        there, here = self._loaded_checkpoint.get("global_step"), self.trainer.global_step
        if self.trainer.state.fn == TrainerFn.FITTING and there != here:
            raise self._misfit(f"it is of step {there}, and its counters are at step {here}")

        if self.trainer.state.fn == TrainerFn.FITTING:
            self._count_in_steps()

    def _count_in_steps(self) -> None:
        """Lightning's own Trainer counts micro-batches where it accumulates."""
        loop: Any = self.trainer.fit_loop
        batches, epochs, steps = loop.epoch_loop.batch_progress, loop.epoch_progress.current, self.trainer.global_step
        is_theirs = "counters" not in self._loaded_checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]
        if not is_theirs or not self.trainer.lightning_module.automatic_optimization:
            return
        if batches.total.processed > steps:
            if epochs.started > epochs.processed and not batches.is_last_batch:
                raise self._misfit(
                    f"Lightning's own Trainer wrote it in the middle of an epoch, after {batches.total.processed:,} "
                    f"micro-batches in {steps:,} steps, so which samples are left cannot be told; take one from an "
                    "epoch's end"
                )
            for name in vars(batches.total):
                setattr(batches.total, name, steps)

    def restore_optimizers(self) -> None:
        optimizers, states = self.trainer.optimizers, self._loaded_checkpoint.get("optimizer_states", ())
        if len(states) != len(optimizers):
            raise self._misfit(f"it has the states of {len(states)} optimizers, and this training {len(optimizers)}")
        before = [set(group) for optimizer in optimizers for group in optimizer.param_groups]
        super().restore_optimizers()
        groups = [(optimizer, group) for optimizer in optimizers for group in optimizer.param_groups]
        for names, (optimizer, group) in zip(before, groups, strict=True):
            if lost := names - set(group) - {"initial_lr"}:  # that is a scheduler's, which has it in its own state too
                raise self._misfit(
                    f"it was written with another optimizer or scheduler: it has no {_listed(lost)}, which "
                    f"{type(optimizer).__name__} needs here"
                )

    def restore_lr_schedulers(self) -> None:
        if (callback := averaging(self.trainer)) is not None:
            if is_renewing_batch_norm(self.trainer, callback):
                raise self._misfit(
                    "StochasticWeightAveraging was at its last pass, in which BatchNorm gets new means, and has kept "
                    "nothing of it; take the checkpoint of the epoch before"
                )
            go_on_in_mid_epoch(self.trainer, callback)
            return
        configs, states = self.trainer.lr_scheduler_configs, self._loaded_checkpoint["lr_schedulers"]
        if len(configs) != len(states):
            raise self._misfit(f"it has the states of {len(states)} schedulers, and this training {len(configs)}")
        for config, state in zip(configs, states, strict=True):
            ours, theirs = _public(config.scheduler.state_dict()), _public(state)
            if ours - theirs and theirs - ours:
                raise self._misfit(
                    f"it was written with another scheduler: it has {_listed(theirs - ours)} and no "
                    f"{_listed(ours - theirs)}, which {type(config.scheduler).__name__} needs here"
                )
        super().restore_lr_schedulers()
        # The rate of the next step came with the optimizer's state, and is the one of the plan that the checkpoint was
        # written in: nothing at its end, where the run now goes on for longer.
        for config in configs:
            if isinstance(config.scheduler, LambdaLR) and _has_set_the_rates(config.scheduler):
                set_rates(config.scheduler)

    def _misfit(self, problem: str) -> InputError:
        return InputError(
            f"no run can go on from checkpoint {self._ckpt_path}: {problem}; keep the configuration that it was "
            "written with"
        )


def set_rates(scheduler: LambdaLR) -> None:
    """Give the next step the rates that the schedule now has for it; otherwise they stay until the step is done."""
    rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    scheduler._last_lr = [base * factor(scheduler.last_epoch) for base, factor in rates]
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _has_set_the_rates(scheduler: LambdaLR) -> bool:
    """Whether nothing else, such as a second scheduler of the same optimizer, has changed them after it."""
    groups = scheduler.optimizer.param_groups
    return [float(rate) for rate in scheduler.get_last_lr()] == [float(group["lr"]) for group in groups]


def _public(state: dict[str, Any]) -> set[str]:
    """What a scheduler keeps under names that last: those with an underscore differ between versions of PyTorch."""
    return {name for name in state if not name.startswith("_")}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
