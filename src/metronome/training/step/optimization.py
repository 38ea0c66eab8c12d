"""Lightning's two ways to make a step, with the batch counted and cut up."""

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

from torch.optim import Optimizer

from metronome.training.lightning_private import AutomaticOptimizationBase, Closure, ManualOptimizationBase
from metronome.training.logged.metrics import metrics_as_before
from metronome.training.step.closure import StepClosure, StepParts


class StepOptimization(AutomaticOptimizationBase):
    """Lightning's automatic optimization, with the closure of a whole batch."""

    def __init__(self, parts: StepParts) -> None:
        super().__init__(parts.trainer)
        self.parts = parts

    def _make_closure(self, kwargs: OrderedDict, optimizer: Optimizer, batch_idx: int) -> Closure:
        share, *arguments = kwargs.values()
        zero_grad = self._make_zero_grad_fn(batch_idx, optimizer)
        closure = StepClosure(self.parts, share, arguments, zero_grad, self._make_backward_fn(optimizer))
        self.parts.state.counters.samples += closure.batch_samples
        return closure


class ManualStepOptimization(ManualOptimizationBase):
    """Lightning's manual optimization: the module steps its optimizers itself; here the batch is only counted.

    Gradients of the devices are averaged as they are: shares of different sizes are not weighed.
    """

    def __init__(self, parts: StepParts) -> None:
        super().__init__(parts.trainer)
        self.parts = parts

    def run(self, kwargs: OrderedDict) -> dict[str, Any]:
        results, counters, share = self.parts.results, self.parts.state.counters, kwargs["batch"]
        size = self.parts.shares.sizes(share)
        counted = size.share > 0
        results.begin_step()
        results.begin_micro_batch(share, max(size.share, 1), counted)
        with nullcontext() if counted else metrics_as_before(self.trainer.lightning_module):
            output = super().run(kwargs)
        results.end_step(share, size.share)
        counters.iterations += 1
        counters.samples += size.batch
        return output
