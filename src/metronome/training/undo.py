"""What a step changes before its update, kept so that the step can be done again, or left out."""

from typing import TYPE_CHECKING

import torch

from metronome.training.results import Results, metric_states
from metronome.training.seeds import generator_states

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
        self.buffers = [(b, b.detach().clone()) for b in trainer.lightning_module.buffers()] if generators else []
        self.iterations = trainer.counters.iterations

    @torch.no_grad()
    def __call__(self) -> None:
        self.put_values_back()
        self.put_metrics_back()
        for buffer, before in self.buffers:
            buffer.copy_(before)
        if self.put_generators_back is not None:
            self.put_generators_back()
        self.trainer.counters.iterations = self.iterations

    def put_values_back(self) -> None:
        """What was logged, and nothing else."""
        for key in [key for key in self.results if key not in self.values]:
            del self.results[key]
        for key, values in self.values.items():
            # Values are replaced when they change, never changed in place.
            vars(self.results[key]).update(values)
