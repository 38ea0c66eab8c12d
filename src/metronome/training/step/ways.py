"""How the parts of a step are done: straight, where Lightning's strategy, precision and profiler would add nothing."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from metronome.training.lightning_private import (
    before_batch_transfer,
    call_module_hook,
    call_strategy_hook,
    is_averaging_models,
    lightning_optimizer,
    transfers_batches,
    without_gradient_sync,
)
from metronome.training.sharded import ShardedStrategy
from metronome.training.step.hooks import Hooks, is_written
from metronome.training.step.through_ddp import through_ddp
from metronome.units import InputError

# Methods of a strategy and of a precision plugin that are passed by where they are those of these classes.
_OF_STRATEGY = ("backward", "batch_to_device", "on_train_batch_start", "optimizer_step", "post_backward",
                "post_training_step", "pre_backward", "training_step")  # fmt: skip
_OF_PRECISION = ("backward", "convert_input", "forward_context", "optimizer_step", "post_backward", "pre_backward",
                 "train_step_context")  # fmt: skip

NOTHING = nullcontext()  # one does for all


class Ways:
    """The ways to do each part of a step on this hardware, chosen once a fit.

    Args:
        trainer: with its module, optimizers and strategy in place.
        hooks: of the step.
    """

    def __init__(self, trainer: L.Trainer, hooks: Hooks) -> None:
        self.trainer, self.hooks, self.module = trainer, hooks, trainer.lightning_module
        self.strategy, self.is_plain = trainer.strategy, _is_plain(trainer, hooks)
        self._books = vars(self.module)
        self._is_wrapped = self.strategy.model is not self.module
        self._through_ddp, self._meets = through_ddp(self.strategy, self.module) if self.is_plain else None, True
        self._may_wait = self._is_wrapped or isinstance(self.strategy, ShardedStrategy)
        self._has_backward = is_written(self.module, "backward", L.LightningModule)
        self._has_zero_grad = is_written(self.module, "optimizer_zero_grad", L.LightningModule)
        self._has_step = is_written(self.module, "optimizer_step", L.LightningModule)
        self._has_clipping = any(
            is_written(self.module, name, L.LightningModule)
            for name in ("clip_gradients", "configure_gradient_clipping")
        )
        # On the CPU a batch of tensors is where it must be, unless somebody has written how to move one.
        self._stays = self.is_plain and self.strategy.root_device.type == "cpu" and not transfers_batches(trainer)
        self._has_before_transfer = before_batch_transfer(trainer) is not None
        self._seen = tuple(map(list, self._placed()))

    def _placed(self) -> tuple[list[Any], ...]:
        """What a hook may put others in the place of; a hook put on a module or callback is one attribute more."""
        callbacks: list[Any] = self.trainer.callbacks  # pyright: ignore
        attributes = [len(self._books), *map(len, map(vars, callbacks))]
        return callbacks, self.strategy.optimizers, self.strategy.lr_scheduler_configs, attributes

    def are_old(self) -> bool:
        """Whether callbacks, optimizers or schedulers have been replaced: some do it in the middle of a fit."""
        return self._placed() != self._seen

    # ---- forward and backward ------------------------------------------------------------------------------

    def to_device(self, batch: Any) -> Any:
        """The batch where the module is, as its hooks want it."""
        if not self._stays or self._has_before_transfer:
            batch = self.trainer.precision_plugin.convert_input(batch)
            batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        if self._stays and _is_on_cpu(batch):
            return batch
        return call_strategy_hook(self.trainer, "batch_to_device", batch, dataloader_idx=0)

    def training_step(self, *arguments: Any) -> Any:
        if not self.is_plain:
            output = call_strategy_hook(self.trainer, "training_step", *arguments)
            self.strategy.post_training_step()
            return output
        books = self._books
        before, books["_current_fx_name"] = books["_current_fx_name"], "training_step"
        if self._is_wrapped and self._through_ddp is None:
            output = self.strategy.training_step(*arguments)
        elif self._through_ddp is not None:
            output = self._through_ddp(*arguments) if self._meets else self._through_ddp.alone(*arguments)
        else:
            output = self.module.training_step(*arguments)
        books["_current_fx_name"] = before
        return output

    def backward(self, loss: Tensor, optimizer: Optimizer) -> None:
        if not self.is_plain:
            call_strategy_hook(self.trainer, "backward", loss, optimizer)
            return
        self.hooks("on_before_backward", loss)
        books = self._books
        before, books["_current_fx_name"] = books["_current_fx_name"], "backward"
        if self._has_backward:
            self.module.backward(loss)
        else:
            loss.backward()
        books["_current_fx_name"] = before
        self.hooks("on_after_backward")

    def gradients_meet(self, wanted: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass: whether the devices' gradients are averaged in it."""
        self._meets = wanted
        if wanted or not self._may_wait:
            return NOTHING
        return self._through_ddp or without_gradient_sync(self.strategy, block=True)

    # ---- the update ----------------------------------------------------------------------------------------

    def zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if self._has_zero_grad or self.hooks.is_profiled:
            call_module_hook(self.trainer, "optimizer_zero_grad", epoch, batch_idx, optimizer)
        else:
            optimizer.zero_grad()

    def update(self, epoch: int, batch_idx: int, optimizer: Optimizer, closure: Callable[[], Tensor | None]) -> None:
        """The optimizer's step; it calls the closure, which evaluates the batch. Raises InputError if it does not."""
        is_plain, was_called = self.is_plain and not self._has_step, False

        def evaluate() -> Tensor | None:
            nonlocal was_called
            was_called = True
            loss = closure()
            if not is_plain:
                return loss  # what follows is part of Lightning's way
            self.hooks("on_before_optimizer_step", optimizer)
            value = self.trainer.gradient_clip_val
            if value or self._has_clipping:
                algorithm = self.trainer.gradient_clip_algorithm
                names = {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
                call_module_hook(self.trainer, "configure_gradient_clipping", optimizer, **names)
            return loss

        if is_plain:
            books = self._books
            before, books["_current_fx_name"] = books["_current_fx_name"], "optimizer_step"
            optimizer.step(closure=evaluate)  # pyright: ignore
            books["_current_fx_name"] = before
        else:
            wrapped = lightning_optimizer(self.trainer)
            call_module_hook(self.trainer, "optimizer_step", epoch, batch_idx, wrapped, evaluate)
        if not was_called:
            raise InputError(
                f"the closure was not called, in which gradients are made: {type(optimizer).__name__}.step(closure), "
                "or the module's optimizer_step, must call it"
            )


def _is_plain(trainer: L.Trainer, hooks: Hooks) -> bool:
    """Whether strategy, precision and profiler add nothing to a step beyond what their base classes do."""
    strategy, precision = trainer.strategy, trainer.precision_plugin
    kind = DDPStrategy if isinstance(strategy, DDPStrategy) else SingleDeviceStrategy
    return (
        not hooks.is_profiled
        and isinstance(strategy, kind)
        and not any(is_written(strategy, name, kind) for name in _OF_STRATEGY)
        and not any(is_written(precision, name, Precision) for name in _OF_PRECISION)
        and not is_averaging_models(strategy)
    )


def _is_on_cpu(batch: Any) -> bool:
    parts = batch if type(batch) in (tuple, list) else batch.values() if type(batch) is dict else (batch,)
    return all(type(part) is Tensor and part.device.type == "cpu" for part in parts)
