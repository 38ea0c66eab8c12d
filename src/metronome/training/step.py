"""One step: every micro-batch of this device's share forward and backward, then one update.

The loader yields this device's whole share of a batch. The closure cuts it into micro-batches and weighs each loss by

    weight = (samples in the micro-batch) * devices / (samples in the whole batch),

so that the gradient, which the strategy averages over devices, is that of the mean loss over the batch: the last,
smaller batch included, and shares of different sizes too.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from lightning.pytorch.loops.optimization.manual import _ManualOptimization
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from lightning.pytorch.trainer import call
from torch import Tensor
from torch.optim import Optimizer

from metronome.training.cut import join_outputs, micro_batch_sizes
from metronome.training.results import metrics_kept

if TYPE_CHECKING:
    from metronome.training.trainer import Trainer


class StepClosure(Closure):
    """Zero the gradients, run every micro-batch forward and backward, return the batch's mean loss.

    An optimizer may call it several times a step (L-BFGS does): each call evaluates the whole batch.
    """

    def __init__(
        self,
        trainer: "Trainer",
        share: Any,
        arguments: list[Any],
        zero_grad: Callable[[], None] | None,
        backward: Callable[[Tensor], None] | None,
    ) -> None:
        super().__init__(lambda: ClosureResult(None), backward, zero_grad)
        self.trainer, self.arguments = trainer, arguments
        size = trainer.batch_sizes(share)
        self.share, self.share_samples = share, size.share
        self.devices, self.batch_samples = trainer.world_size, size.batch
        self.counted = size.share > 0  # else the one sample read is there for the collectives alone
        parts = trainer.accumulation if self.counted else 1
        # A share that is not cut need not have a countable structure.
        self.sizes = micro_batch_sizes(max(size.share, 1), parts)
        self.micro_batches = trainer.cut_batch(share, self.sizes) if len(self.sizes) > 1 else [share]

    @torch.enable_grad()
    def closure(self, *_: Any, **__: Any) -> ClosureResult:
        trainer, results = self.trainer, self.trainer.step_results
        results.begin_step()
        if self._zero_grad_fn is not None:
            self._zero_grad_fn()
        loss: Tensor | None = None
        extras: list[dict[str, Any]] = []
        extra_sizes: list[int] = []
        last = len(self.sizes) - 1
        for i, (micro_batch, samples) in enumerate(zip(self.micro_batches, self.sizes, strict=True)):
            results.begin_micro_batch(micro_batch, samples, self.counted)
            weight = samples * self.devices / self.batch_samples if self.counted else 0.0
            # Gradients need to meet the other devices' only once, in the last backward pass.
            with _block_parallel_sync_behavior(trainer.strategy, block=i < last):
                result = self._forward(micro_batch)
                if result.closure_loss is None or result.loss is None:
                    continue
                if self._backward_fn is not None:
                    self._backward_fn(result.closure_loss if weight == 1 else result.closure_loss * weight)
            share_loss = result.loss if weight == 1 else result.loss * weight
            loss = share_loss if loss is None else loss + share_loss
            extras.append(result.extra)
            extra_sizes.append(samples)
            trainer.counters.iterations += 1
        results.end_step(self.share, self.share_samples)
        if loss is None:
            self.warning_cache.warn("`training_step` returned `None`: the step has no gradient")
            return ClosureResult(None)
        if self.devices > 1:
            # The mean over the batch, not over this device's share: an optimizer that looks at the loss (L-BFGS)
            # must see the same number on every device, or they part.
            reduced = trainer.strategy.reduce(loss, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            loss = reduced
        step = ClosureResult(None, extra=join_outputs(extras, extra_sizes) if extras[-1] else {})
        step.loss = loss
        return step

    def _forward(self, micro_batch: Any) -> ClosureResult:
        trainer = self.trainer
        with nullcontext() if self.counted else metrics_kept(trainer.lightning_module):
            output = call._call_strategy_hook(trainer, "training_step", micro_batch, *self.arguments)
        trainer.strategy.post_training_step()
        if output is None and self.devices > 1:
            raise RuntimeError("training_step returned None: on several devices no step can be skipped")
        return ClosureResult.from_training_step_output(output)


class StepOptimization(_AutomaticOptimization):
    """Lightning's automatic optimization, with the closure above."""

    trainer: "Trainer"

    def _make_closure(self, kwargs: OrderedDict, optimizer: Optimizer, batch_idx: int) -> Closure:
        share, *arguments = kwargs.values()
        zero_grad = self._make_zero_grad_fn(batch_idx, optimizer)
        closure = StepClosure(self.trainer, share, arguments, zero_grad, self._make_backward_fn(optimizer))
        self.trainer.counters.samples += closure.batch_samples
        return closure


class ManualStepOptimization(_ManualOptimization):
    """Lightning's manual optimization: the module steps its optimizers itself; here the batch is only counted.

    Gradients of the devices are averaged as they are: shares of different sizes are not weighed.
    """

    trainer: "Trainer"

    def run(self, kwargs: OrderedDict) -> dict[str, Any]:
        trainer, share = self.trainer, kwargs["batch"]
        size, results = trainer.batch_sizes(share), trainer.step_results
        counted = size.share > 0
        results.begin_step()
        results.begin_micro_batch(share, max(size.share, 1), counted)
        with nullcontext() if counted else metrics_kept(trainer.lightning_module):
            output = super().run(kwargs)
        results.end_step(share, size.share)
        trainer.counters.iterations += 1
        trainer.counters.samples += size.batch
        return output
