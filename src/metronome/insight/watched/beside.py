"""Two gradients of a batch at the weights as they are, and at those of a step before: made beside the training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed, nn

from metronome.insight.layout.kept import Kept
from metronome.insight.marks import mark, milliseconds
from metronome.insight.noise_scale.estimate import estimates
from metronome.training.batches.seeds import remember_generators
from metronome.training.logged.metrics import remember_metrics
from metronome.training.precise import most_precise

# One of its points, as a list: |G|^2 and tr(S) of the gradient; then, where a step before is known, what the step was
# to gain at its start, and its curvature; the loss of these samples after the step.
NAMES = ("squared", "trace", "gain", "curvature", "loss")

_TALK = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all", "all_to_all_single",
    "barrier", "broadcast", "broadcast_object_list", "gather", "reduce", "reduce_scatter", "reduce_scatter_tensor",
    "scatter",
)  # fmt: skip


@dataclass
class Piece:
    """A part of a batch on the device, the samples in it, and what its mean loss divides by."""

    batch: Any
    samples: int
    weight: float


class Beside:
    """Gradients in evaluation mode, so that they differ by their samples and weights alone: no dropout, and BatchNorm
    by its running means. Weights, `.grad`, buffers, plain attributes (a counter, a list), torchmetrics, logged
    values and random numbers stay as they are.

    Args:
        module: with `loss_and_outputs(batch)`.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.trainer, self.module = trainer, module
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._on_gpu = trainer.strategy.root_device.type == "cuda"
        self._passes: list[tuple[int, Any, Any]] = []  # samples of a pass, and the marks around it

    @torch.no_grad()
    def copy(self) -> list[Tensor]:
        """Of the weights, to be handed to `measure` after a step."""
        return [p.detach().clone() for p in self.parameters]

    def measure(self, pieces: Sequence[Piece], before: Sequence[Tensor] | None) -> Tensor:
        """The numbers of a point (`NAMES`), on the device; nan where they are not known.

        With w the weights now, w0 those before the last step, g the gradient of the pieces together, and d = w - w0:
        the gain of the step is -d g(w0) to first order, and its curvature d (g(w) - g(w0)). A step s times as long
        would have gained s * gain - s^2/2 * curvature, the most with s = gain/curvature.
        """
        with self._leaving_no_trace():
            found = [self._gradient(piece) for piece in pieces]
            weights = [piece.weight / sum(p.weight for p in pieces) for piece in pieces]
            mean = _mean([gradient for gradient, _ in found], weights)
            parts = sum(a * _dot(gradient, gradient) for a, (gradient, _) in zip(weights, found, strict=True))
            whole, samples = _dot(mean, mean), sum(piece.samples for piece in pieces)
            squared, trace = estimates(parts, whole, samples, len(pieces))  # pyright: ignore
            loss = sum(a * value for a, (_, value) in zip(weights, found, strict=True))
            gain = curvature = torch.full_like(whole, torch.nan)
            if before is not None:
                moved = [p.detach() - b for p, b in zip(self.parameters, before, strict=True)]
                with self._at(before):
                    there = _mean([self._gradient(piece)[0] for piece in pieces], weights)
                gain = -_dot(moved, there)
                curvature = _dot(moved, mean) + gain
            return torch.stack([squared, trace, gain, curvature, loss])  # pyright: ignore

    def passes(self) -> list[tuple[int, float]]:
        """Samples and milliseconds of each pass since this was asked; on a GPU, which is waited for, by its clock."""
        passes, self._passes = self._passes, []
        return [(samples, milliseconds(begin, end)) for samples, begin, end in passes]

    def _gradient(self, piece: Piece) -> tuple[list[Tensor], Tensor]:
        begin = mark(self._on_gpu)
        with self.trainer.precision_plugin.forward_context():
            loss = self.module.loss_and_outputs(piece.batch)[0]  # pyright: ignore
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self._passes.append((piece.samples, begin, mark(self._on_gpu)))
        pairs = zip(self.parameters, found, strict=True)
        return [torch.zeros_like(p) if g is None else g for p, g in pairs], loss.detach().to(most_precise(loss.device))

    @contextmanager
    def _at(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """At other weights, whose memory is put in the place of the module's."""
        own = [p.data for p in self.parameters]
        try:
            for p, there in zip(self.parameters, weights, strict=True):
                p.data = there
            yield
        finally:
            for p, here in zip(self.parameters, own, strict=True):
                p.data = here

    @contextmanager
    def _leaving_no_trace(self) -> Iterator[None]:
        module = self.module
        modes = {part: part.training for part in module.modules()}
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        # Buffers are put back below, without a look at them, for which a GPU would be waited for.
        kept, put_metrics_back = Kept(module, apart=list(module.modules()), weights=False), remember_metrics(module)
        put_back, books = remember_generators(self.trainer.strategy.root_device), vars(module)
        logs = {name: books.get(name) for name in ("log", "log_dict")}
        books.update(dict.fromkeys(logs, _say_nothing))
        module.eval()
        try:
            with torch.enable_grad(), _hearing_of_nobody():
                yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for name, value in logs.items():
                if value is None:
                    del books[name]
                else:
                    books[name] = value
            kept.put_back(weights=False, apart=False)
            put_metrics_back()
            put_back()


@contextmanager
def _hearing_of_nobody() -> Iterator[None]:
    """One device measures alone: a loss that asks the others would wait for ever, and raises RuntimeError instead."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        yield
        return
    talk = {name: getattr(distributed, name) for name in _TALK if hasattr(distributed, name)}
    try:
        for name in talk:
            setattr(distributed, name, _refuse_to_talk)
        yield
    finally:
        for name, function in talk.items():
            setattr(distributed, name, function)


def _refuse_to_talk(*_: Any, **__: Any) -> None:
    raise RuntimeError("the loss talks to the other devices, and the first one measures alone")


def weight_of(module: nn.Module, batch: Any, samples: int) -> float:
    """What the mean loss of a batch divides by."""
    own = getattr(module, "loss_weight", None)
    weight = None if own is None else own(batch)
    return float(samples if weight is None else weight)


def _mean(gradients: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    first, *others = [[a * g for g in gradient] for a, gradient in zip(weights, gradients, strict=True)]
    for other in others:
        torch._foreach_add_(first, other)  # pyright: ignore
    return first


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """In the precision of the numbers, which few additions of many make good enough; added up in more."""
    products = torch.stack([torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)])
    return products.to(most_precise(products.device)).sum()


def _say_nothing(*_: Any, **__: Any) -> None: ...
