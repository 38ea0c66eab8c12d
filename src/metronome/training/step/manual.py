"""A step whose module optimizes manually: its batch is counted, its losses are weighed, and looked at."""

import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning as L
from torch import Tensor

from metronome.training.batches.shares import Shares
from metronome.training.guards.nonfinite import Watch
from metronome.training.lightning_private import ManualOptimizationBase
from metronome.training.logged.metrics import metrics_as_before
from metronome.training.logged.results import Results
from metronome.training.place import data_devices
from metronome.training.state import TrainingState
from metronome.training.step.weights import Weight, Weights
from metronome.units import InputError


class ManualStep(ManualOptimizationBase):
    """Lightning's manual optimization: the module steps its optimizers itself.

    A loss that it gives to `manual_backward` weighs as much as this device's share of the batch, so that the gradient,
    averaged over the devices, is that of the whole batch; it and the gradient are looked at before the module goes on.
    """

    def __init__(
        self, trainer: L.Trainer, state: TrainingState, shares: Shares, results: Results, watch: Watch
    ) -> None:
        super().__init__(trainer)
        self.state, self.shares, self.results, self.watch = state, shares, results, watch

    def prepare(self) -> None:
        """Once a fit. Raises InputError for a step that is to be left out, which is the module's own to make."""
        module = self.trainer.lightning_module
        self._weights, self._may_warn = Weights(self.trainer), not module.automatic_optimization
        if self.watch.skips and not module.automatic_optimization:
            raise InputError(
                f"{type(module).__name__} optimizes manually, so no step can be left out for it; use "
                "trainer.on_nonfinite=stop"
            )

    def run(self, kwargs: OrderedDict) -> dict[str, Any]:
        results, counters, share = self.results, self.state.counters, kwargs["batch"]
        size = self.shares.sizes(share)
        counted = size.share > 0
        (weight,) = self._weights([share], [size.share], size.batch)
        results.begin_step(is_cut=data_devices(self.trainer) > 1)
        results.begin_micro_batch(share, weight.divisor, counted)
        updates = self.optim_step_progress.total.completed
        with self._weighed(weight), nullcontext() if counted else metrics_as_before(self.trainer.lightning_module):
            output = super().run(kwargs)
        if self._may_warn and not self._passes and self.optim_step_progress.total.completed > updates:
            self._may_warn = False
            warnings.warn(
                f"{type(self.trainer.lightning_module).__name__} calls backward() itself: what is not finite is not "
                "looked for, and devices with different shares of a batch weigh the same; call "
                "self.manual_backward(loss)",
                stacklevel=2,
            )
        results.end_step(share, weight.divisor)
        counters.iterations += 1
        counters.samples += size.batch
        return output

    @contextmanager
    def _weighed(self, weight: Weight) -> Iterator[None]:
        """While it lasts, the strategy's backward passes are of weighed losses."""
        strategy, stock = self.trainer.strategy, self.trainer.strategy.backward
        self._passes = 0

        def backward(loss: Tensor, *arguments: Any, **options: Any) -> Any:
            self._passes += 1
            passed = stock(self._weights.weighed(loss, weight), *arguments, **options)
            self.watch.allows(loss.detach())
            return passed

        strategy.backward = backward  # pyright: ignore
        try:
            yield
        finally:
            del strategy.backward
