"""Loss and gradient of one batch, made by the real step: whole, or cut into micro-batches."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from metronome.insight.layout.holds import Hold, holding
from metronome.insight.layout.kept import Kept
from metronome.training import Trainer
from metronome.training.batches.seeds import StepSeeds
from metronome.training.guards.memory import is_out_of_memory, one_line
from metronome.training.guards.put_back.undo import Undo
from metronome.training.looks.across_samples import batch_norms, spectral_norms
from metronome.training.step.step import CutBatch, Step
from metronome.training.step.weights import Weight
from metronome.units import InputError, RunFailed

# Gradients of parameters that are this much smaller than the largest count as if they were not: in theirs is rounding.
_FLOOR = 1e-3


@dataclass(frozen=True)
class Pass:
    """The loss and the gradient of a batch, and what its passes drew and changed.

    Attributes:
        loss: a number; NaN where training_step gave none.
        gradient: of each parameter, by name.
        drawn: kinds of random numbers.
        weights, state: names of what is not what it was before.
        factors: what the micro-batches' losses were multiplied by.
    """

    loss: float
    gradient: dict[str, Tensor]
    drawn: frozenset[Hold] = frozenset()
    weights: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    @property
    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(g).all()) for g in [torch.tensor(self.loss), *self.gradient.values()])


class Measure:
    """Makes the passes over a batch as often as asked, each time from the same weights, state and seeds.

    Args:
        trainer: in the middle of the step.
        step: which it makes.
        batch: of which.
    """

    def __init__(self, trainer: Trainer, step: Step, batch: CutBatch) -> None:
        self.trainer, self.step, self.batch, self.module = trainer, step, batch, trainer.lightning_module
        self.state = trainer.state_of_training
        self._seeds = StepSeeds(self.state.seed, trainer.strategy.root_device, trainer.global_rank)
        norms = [*spectral_norms(self.module).values(), *batch_norms(self.module).values()]
        self._kept = Kept(self.module, norms)
        self._undo = Undo(self.module, step.results, self.state.counters, trainer.strategy.root_device)
        self._accumulate = self.state.accumulate

    def __call__(
        self, cut: int, held: frozenset[Hold] = frozenset(), factors: Sequence[float] | None = None, seed: int = 0
    ) -> Pass:
        """The passes over the batch in this many micro-batches.

        Args:
            cut: micro-batches; 1: whole.
            held: what is held still.
            factors: of the micro-batches' losses, in place of the step's own.
            seed: another one draws other random numbers.
        """
        batch = self._cut(cut)
        if factors is not None:
            batch.weights = [Weight(w.divisor, f) for w, f in zip(batch.weights, factors, strict=True)]
        return self._passes(batch, held, seed)

    def parts(self, cut: int, held: frozenset[Hold]) -> list[Pass]:
        """The passes over each of this many micro-batches alone, as if it were all there is."""
        whole, parts = self._cut(cut), []
        for micro_batch, samples in zip(whole.micro_batches, whole.sizes, strict=True):
            part = CutBatch(micro_batch, samples, samples, samples, self.batch.index, self.batch.arguments, [samples])
            part.micro_batches, part.weights = [micro_batch], [Weight(samples, 1.0)]
            parts.append(self._passes(part, held, 0))
        return parts

    def micro_batches(self, cut: int) -> Sequence[Any]:
        return self._cut(cut).micro_batches

    def put_back(self) -> None:
        """All as it was before the first pass; nothing has been trained."""
        self._kept.put_back()
        self._undo()
        self.state.accumulate = self._accumulate
        for parameter in self.module.parameters():
            parameter.grad = None

    def _cut(self, cut: int) -> CutBatch:
        given = self.batch
        try:
            share = deepcopy(given.share)  # some modules take it apart
        except (TypeError, RuntimeError, NotImplementedError):
            share = given.share
        sizes = given.share_samples, given.batch_samples, given.largest
        batch = CutBatch(share, *sizes, given.index, given.arguments)
        self.state.accumulate = cut
        self.step.cut(batch)
        return batch

    def _passes(self, batch: CutBatch, held: frozenset[Hold], seed: int) -> Pass:
        self.put_back()
        self._seeds(self.state.epoch, self.state.step + seed)
        with holding(held, self._kept, self.module, self.step.ways) as draws:
            try:
                loss = self.step.passes(batch).loss
            except RuntimeError as error:
                raise _explained(error, self.trainer, len(batch.sizes)) from error
        gradient = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
            for name, p in self.module.named_parameters() if p.requires_grad
        }  # fmt: skip
        made = Pass(
            float("nan") if loss is None else float(loss), gradient, frozenset(draws.seen),
            self._kept.changed_weights(), self._kept.changed_state(), [float(w.factor) for w in batch.weights],
        )  # fmt: skip
        self.put_back()
        return made


def _explained(error: RuntimeError, trainer: Trainer, pieces: int) -> Exception:
    if is_out_of_memory(error):
        return RunFailed(
            f"out of memory with the batch in {pieces} pieces ({one_line(error)}); it is looked at whole too: give a "
            "smaller data.batch_size"
        )
    if trainer.precision == "64-true" and any(word in str(error) for word in ("Double", "double", "float64")):
        return InputError(
            f"training_step does not work in float64 ({one_line(error)}); in float32: trainer.precision=32-true"
        )
    return error


def differences(found: Pass, expected: Pass) -> dict[str, float]:
    """How far the gradients of each parameter, and under `""` the losses, are apart, relative to those expected."""
    norms = {name: float(g.norm()) for name, g in expected.gradient.items()}
    floor = _FLOOR * max(norms.values(), default=0.0)
    apart = {
        name: _relative(float((found.gradient[name] - g).norm()), max(norms[name], floor))
        for name, g in expected.gradient.items()
    }
    return {"": _relative(abs(found.loss - expected.loss), abs(expected.loss)), **apart}


def difference(found: Pass, expected: Pass) -> float:
    """The largest of them."""
    return max(differences(found, expected).values())


def _relative(apart: float, size: float) -> float:
    if apart != apart:  # not a number
        return float("inf")
    return 0.0 if apart == 0 else apart / size if size > 0 else float("inf")
