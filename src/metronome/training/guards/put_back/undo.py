"""What a step changes before its update, kept so that the step can be done again, or left out."""

import torch
from torch import nn

from metronome.training.batches.seeds import remember_generators
from metronome.training.logged.metrics import ListsSoFar, modules_of, remember_metrics
from metronome.training.logged.results import Results
from metronome.training.state import Counters


class Undo:
    """Remembers logged values, torchmetrics, buffers (BatchNorm's means), random generators and counters; called, it
    puts them back. Weights and the optimizer's state are not among them: they change only in the update.

    Args:
        module: whose torchmetrics and buffers they are.
        results: the logged values.
        counters: of the training; None in an evaluation, which changes neither them, nor buffers, nor generators.
        device: whose generators they are.
        lists: what `remember_metrics` may keep from one batch to the next.
    """

    def __init__(
        self,
        module: nn.Module,
        results: Results,
        counters: Counters | None = None,
        device: torch.device | None = None,
        lists: ListsSoFar | None = None,
    ) -> None:
        self.results, self.counters = results, counters
        results.arrive()  # the values of the step before, if they are still on their way between the devices
        self.values = {key: dict(vars(metric)) for key, metric in results.items()}
        self.put_metrics_back = remember_metrics(module, lists)
        self.put_generators_back = None if counters is None else remember_generators(device)
        owners = () if counters is None else modules_of(module)
        self.buffers = [
            (owner._buffers, name, buffer, None if buffer is None else buffer.detach().clone())
            for owner in owners for name, buffer in owner._buffers.items()
        ]  # fmt: skip
        self.iterations = 0 if counters is None else counters.iterations

    def __call__(self) -> None:
        self.forget()
        if self.put_generators_back is not None:
            self.put_generators_back()
        if self.counters is not None:
            self.counters.iterations = self.iterations

    @torch.no_grad()
    def forget(self) -> None:
        """Put back what was learnt from the samples: values, torchmetrics, buffers. What was done still counts."""
        self.results.forget_step()
        self.put_metrics_back()
        for owner, name, buffer, before in self.buffers:
            # It may have been replaced, not written into.
            owner[name] = None if buffer is None or before is None else buffer.copy_(before)
        for key in [key for key in self.results if key not in self.values]:
            del self.results[key]
        for key, values in self.values.items():
            # Values are replaced when they change, never changed in place.
            vars(self.results[key]).update(values)
