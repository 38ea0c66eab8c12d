"""The gradient of any samples of the training data, at the weights as they are: made beside the training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from metronome.training import Share, Trainer
from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.seeds import generators_as_before
from metronome.units import InputError

_AT_ONCE = 256  # samples in one pass


class Gradients:
    """Gradients of a module's loss, made in evaluation mode: no dropout, and BatchNorm by its running means, so that
    they differ by their samples alone. `.grad`, logged values and random numbers stay as they are.

    Args:
        trainer: in a training.

    Raises:
        InputError: for a module without `loss_and_outputs`, and data that are no DataModule's.
    """

    def __init__(self, trainer: Trainer) -> None:
        module, sampler = trainer.lightning_module, batch_sampler(trainer)
        if not hasattr(module, "loss_and_outputs"):
            raise InputError(
                f"gradients of chosen samples are asked of loss_and_outputs(batch) -> (loss, outputs), which "
                f"{type(module).__name__} has not; a Classifier or Regressor has it"
            )
        if sampler is None:
            raise InputError("gradients of chosen samples need data from a metronome.data.DataModule")
        self.trainer, self.module = trainer, module
        self.num_samples = sampler.num_samples
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._reader: Any = trainer.train_dataloader.dataset  # pyright: ignore
        self._to_device = trainer.fit_loop.epoch_loop.step.ways.to_device

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Around all that is asked: the module in evaluation mode."""
        modes = {module: module.training for module in self.module.modules()}
        self.module.eval()
        try:
            with generators_as_before(), torch.enable_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def of(self, samples: np.ndarray) -> tuple[Tensor, float]:
        """Of the mean loss over these samples (by index): a vector in float64, and what the mean divides by."""
        total, weights = torch.zeros((), dtype=torch.float64), 0.0
        for first in range(0, len(samples), _AT_ONCE):
            batch = self._to_device(self._reader.__getitems__(Share(0, samples[first : first + _AT_ONCE])))
            loss = self.module.loss_and_outputs(batch)[0]  # pyright: ignore
            found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
            weight = self._weight(batch, len(samples[first : first + _AT_ONCE]))
            total = total + weight * torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten().double().cpu()
                 for p, g in zip(self.parameters.values(), found, strict=True)]
            )  # fmt: skip
            weights += weight
        return total / weights if weights else total, weights

    def by_parameter(self, gradient: Tensor) -> dict[str, Tensor]:
        """Such a vector in its parts, by the names of the parameters."""
        parts = gradient.split([parameter.numel() for parameter in self.parameters.values()])
        return dict(zip(self.parameters, parts, strict=True))

    def _weight(self, batch: Any, samples: int) -> float:
        own = getattr(self.module, "loss_weight", None)
        weight = None if own is None else own(batch)
        return float(samples if weight is None else weight)


def without_prefix(names: list[str], module: L.LightningModule) -> list[str]:
    """Names of parameters without what all begin with, `network.` say."""
    children = [name for name, child in module.named_children() if isinstance(child, nn.Module)]
    prefix = f"{names[0].split('.')[0]}." if names and names[0].split(".")[0] in children else ""
    return [name.removeprefix(prefix) for name in names] if all(name.startswith(prefix) for name in names) else names
