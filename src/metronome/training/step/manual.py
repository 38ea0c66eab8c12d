"""A step whose module optimizes manually: the batch is only counted."""

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

import lightning as L

from metronome.training.batches.shares import Shares
from metronome.training.lightning_private import ManualOptimizationBase
from metronome.training.logged.metrics import metrics_as_before
from metronome.training.logged.results import Results
from metronome.training.state import TrainingState


class ManualStep(ManualOptimizationBase):
    """Lightning's manual optimization: the module steps its optimizers itself; here the batch is only counted.

    Gradients of the devices are averaged as they are: shares of different sizes are not weighed.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState, shares: Shares, results: Results) -> None:
        super().__init__(trainer)
        self.state, self.shares, self.results = state, shares, results

    def run(self, kwargs: OrderedDict) -> dict[str, Any]:
        results, counters, share = self.results, self.state.counters, kwargs["batch"]
        size = self.shares.sizes(share)
        counted = size.share > 0
        results.begin_step()
        results.begin_micro_batch(share, max(size.share, 1), counted)
        with nullcontext() if counted else metrics_as_before(self.trainer.lightning_module):
            output = super().run(kwargs)
        results.end_step(share, size.share)
        counters.iterations += 1
        counters.samples += size.batch
        return output
