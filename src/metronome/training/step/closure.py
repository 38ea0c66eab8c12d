"""One step: every micro-batch of this device's share forward and backward, then one update.

The loader yields this device's whole share of a batch. The closure cuts it into micro-batches and weighs each loss by

    weight = (samples in the micro-batch) * devices / (samples in the whole batch),

so that the gradient, which the strategy averages over devices, is that of the mean loss over the batch: the last,
smaller batch included, and shares of different sizes too.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from metronome.training.batches.cut import join_outputs, micro_batch_sizes
from metronome.training.batches.shares import Shares
from metronome.training.guards.late_averaging import average_gradients, gradients_there, share_buffers
from metronome.training.guards.memory import free_memory, is_out_of_memory, one_line
from metronome.training.guards.nonfinite import Watch
from metronome.training.guards.undo import Undo
from metronome.training.lightning_private import Closure, ClosureResult, call_strategy_hook, without_gradient_sync
from metronome.training.logged.metrics import metrics_as_before
from metronome.training.logged.results import Results
from metronome.training.state import TrainingState
from metronome.units import RunFailed

log = logging.getLogger("metronome.training")


@dataclass
class StepParts:
    """What each step of a training needs: whose it is, how its batches are cut, what watches it, where it logs."""

    trainer: L.Trainer
    state: TrainingState
    shares: Shares
    watch: Watch
    results: Results


class StepClosure(Closure):
    """Zero the gradients, run every micro-batch forward and backward, return the batch's mean loss.

    An optimizer may call it several times a step (L-BFGS does): each call evaluates the whole batch.
    """

    def __init__(
        self,
        parts: StepParts,
        share: Any,
        arguments: list[Any],
        zero_grad: Callable[[], None] | None,
        backward: Callable[[Tensor], None] | None,
    ) -> None:
        super().__init__(lambda: ClosureResult(None), backward, zero_grad)
        self.trainer, self.state, self.shares = parts.trainer, parts.state, parts.shares
        self.watch, self.results, self.arguments = parts.watch, parts.results, arguments
        size = self.shares.sizes(share)
        self.share, self.share_samples = share, size.share
        self.devices, self.batch_samples = self.trainer.world_size, size.batch
        self.counted = size.share > 0  # else the one sample read is there for the collectives alone
        self._evaluated = self._is_left_out = False
        self._cut()

    def _cut(self) -> None:
        parts = self.shares.accumulation if self.counted else 1
        # A share that is not cut need not have a countable structure.
        self.sizes = micro_batch_sizes(max(self.share_samples, 1), parts)
        self.micro_batches = self.shares.cut(self.share, self.sizes) if len(self.sizes) > 1 else [self.share]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | None:
        loss = super().__call__(*args, **kwargs)
        # A gradient scaler wants gradients, or to be told that there are none.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return None if self._is_left_out and scaled else loss

    @torch.enable_grad()
    def closure(self, *_: Any, **__: Any) -> ClosureResult:
        module, state = self.trainer.lightning_module, self.state
        may_undo = state.auto_accumulate or self.watch.skips
        device = self.trainer.strategy.root_device
        undo = Undo(module, self.results, state.counters, device) if may_undo else None
        passes = self._passes_that_fit(undo)
        result = self._joined(passes)
        is_first, self._evaluated = not self._evaluated, True
        # Later evaluations of the same batch are at weights that the optimizer tries out (L-BFGS).
        if is_first and result.loss is not None and not self.watch.allows(result.loss):
            assert undo is not None
            undo.forget()
            self._is_left_out = True
            for parameter in module.parameters():
                parameter.grad = None  # every optimizer leaves these alone, with their state
        return result

    # ---- forward and backward ------------------------------------------------------------------------------

    def _passes_that_fit(self, undo: Undo | None) -> "_Passes":
        """Every micro-batch forward and backward; in finer pieces for as long as memory is short."""
        trainer, module, finer = self.trainer, self.trainer.lightning_module, False
        while True:
            reason = None
            try:
                passes = self._passes()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = one_line(error)
                if undo is None or not self.state.auto_accumulate:
                    raise RunFailed(
                        f"out of memory in step {trainer.global_step + 1:,} ({reason}); use "
                        "trainer.accumulate_grad_batches=auto, or cut the batch into more than "
                        f"{len(self.sizes)} micro-batches"
                    ) from error
            # The error is gone by now, and with it the frames that held on to memory.
            if not self.state.auto_accumulate:
                return passes
            is_short, *has_gradient = self.watch.agreement.largest(int(reason is not None), *gradients_there(module))
            if not is_short:
                break
            assert undo is not None
            undo()
            for parameter in module.parameters():
                parameter.grad = None
            free_memory()
            self.shares.cut_finer(self.batch_samples, reason)
            self._cut()
            finer = True
        if finer:
            step = trainer.global_step + 1
            found = {"accumulate_grad_batches": self.state.accumulate, "micro_batch_size": max(self.sizes)}
            self.state.out_of_memory.append({"step": step, **found})
            log.warning(
                "out of memory in step %s: each device now takes its share of a batch in %d micro-batches of up to %d "
                "samples; the step was done again, and the result stays the same",
                f"{step:,}", len(self.sizes), max(self.sizes),
            )  # fmt: skip
        if self.devices > 1:
            average_gradients(module, has_gradient)
            share_buffers(trainer.strategy.model)
        return passes

    def _passes(self) -> "_Passes":
        trainer, results, passes = self.trainer, self.results, _Passes()
        results.begin_step()
        if self._zero_grad_fn is not None:
            self._zero_grad_fn()
        last = len(self.sizes) - 1
        for i, (micro_batch, samples) in enumerate(zip(self.micro_batches, self.sizes, strict=True)):
            results.begin_micro_batch(micro_batch, samples, self.counted)
            weight = samples * self.devices / self.batch_samples if self.counted else 0.0
            # Gradients need to meet the other devices' only once, in the last backward pass. A device that may run out
            # of memory in it must not keep the others waiting there, so then they meet after it.
            with without_gradient_sync(trainer.strategy, block=i < last or self.state.auto_accumulate):
                result = self._forward(micro_batch)
                if result.closure_loss is None or result.loss is None:
                    continue
                if self._backward_fn is not None:
                    self._backward_fn(result.closure_loss if weight == 1 else result.closure_loss * weight)
            share_loss = result.loss if weight == 1 else result.loss * weight
            passes.loss = share_loss if passes.loss is None else passes.loss + share_loss
            passes.extras.append(result.extra)
            passes.sizes.append(samples)
            self.state.counters.iterations += 1
        return passes

    def _joined(self, passes: "_Passes") -> ClosureResult:
        """What the micro-batches gave, as one batch over all devices."""
        trainer, loss = self.trainer, passes.loss
        self.results.end_step(self.share, self.share_samples)
        if loss is None:
            self.warning_cache.warn("`training_step` returned `None`: the step has no gradient")
            return ClosureResult(None)
        if self.devices > 1:
            # The mean over the batch, not over this device's share: an optimizer that looks at the loss (L-BFGS)
            # must see the same number on every device, or they part.
            reduced = trainer.strategy.reduce(loss, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            loss = reduced
        step = ClosureResult(None, extra=join_outputs(passes.extras, passes.sizes) if passes.extras[-1] else {})
        step.loss = loss
        return step

    def _forward(self, micro_batch: Any) -> ClosureResult:
        trainer = self.trainer
        with nullcontext() if self.counted else metrics_as_before(trainer.lightning_module):
            output = call_strategy_hook(trainer, "training_step", micro_batch, *self.arguments)
        trainer.strategy.post_training_step()
        if output is None and self.devices > 1:
            raise RunFailed(
                "training_step returned None: on several devices no step can be left out; return a loss of 0"
            )
        return ClosureResult.from_training_step_output(output)


@dataclass
class _Passes:
    """What the micro-batches of a step gave: their weighted loss, and all else that they returned."""

    loss: Tensor | None = None
    extras: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
