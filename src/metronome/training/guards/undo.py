"""What a step changes before its update, kept so that the step can be done again, or left out."""

from typing import TYPE_CHECKING

import torch

from metronome.training.batches.seeds import generator_states
from metronome.training.logged.results import Results, metric_states

if TYPE_CHECKING:
    from metronome.training.trainer import Trainer


class Undo:
    """Remembers logged values, torchmetrics, buffers (BatchNorm's means), random generators and counters; called, it
    puts them back. Weights and the optimizer's state are not among them: they change only in the update.

    Args:
        trainer: whose module and counters they are.
        results: the logged values.
        generators: whether random generators, buffers and counters are among what changes (not in an evaluation).
    """

    def __init__(self, trainer: "Trainer", results: Results, generators: bool = True) -> None:
        self.trainer, self.results = trainer, results
        self.values = {key: dict(vars(metric)) for key, metric in results.items()}
        self.put_metrics_back = metric_states(trainer.lightning_module)
        self.put_generators_back = generator_states(trainer.strategy.root_device) if generators else None
        owners = trainer.lightning_module.modules() if generators else ()
        self.buffers = [
            (owner._buffers, name, buffer, None if buffer is None else buffer.detach().clone())
            for owner in owners for name, buffer in owner._buffers.items()
        ]  # fmt: skip
        self.iterations = trainer.counters.iterations

    def __call__(self) -> None:
        self.forget()
        if self.put_generators_back is not None:
            self.put_generators_back()
        self.trainer.counters.iterations = self.iterations

    @torch.no_grad()
    def forget(self) -> None:
        """Put back what was learnt from the samples: values, torchmetrics, buffers. What was done still counts."""
        self.put_metrics_back()
        for owner, name, buffer, before in self.buffers:
            # It may have been replaced, not written into.
            owner[name] = None if buffer is None or before is None else buffer.copy_(before)
        for key in [key for key in self.results if key not in self.values]:
            del self.results[key]
        for key, values in self.values.items():
            # Values are replaced when they change, never changed in place.
            vars(self.results[key]).update(values)
