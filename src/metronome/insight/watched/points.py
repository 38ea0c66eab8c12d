"""Gradients at some steps of a training, kept as rows: taken, timed, and read when they have arrived."""

import logging
from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from metronome.insight.watched.beside import NAMES, Beside, Piece, weight_of
from metronome.insight.watched.places import Places
from metronome.training import Share, Trainer
from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.shares import Shares
from metronome.units import Plan

log = logging.getLogger("metronome.watched")

FEW = 16  # samples of a batch that is too small to be cut in two for a gradient of each part
COLUMNS = ("step", "samples", "batch_size", *NAMES)


class Points:
    """The points of a training: of each its step, samples, batch size, and what `Beside` measures.

    Nothing that goes wrong in one is worth a training: there are no more then, and `off` says why.

    Args:
        trainer, module: in a training, whose plan is `plan`.
        rows: of before.
    """

    def __init__(self, trainer: Trainer, module: L.LightningModule, plan: Plan | None, rows: list[list[Any]]) -> None:
        self.rows, self.times = rows, {}
        self._trainer, self._module = trainer, module
        self._passes: list[tuple[int, float]] = []
        self._arriving: list[tuple[int, int, int, Tensor]] = []  # step, samples, batch size; on the device
        self._before: tuple[int, list[Tensor]] | None = None  # step, weights
        self._places: Places | None = None
        self.off = "the data have no length" if plan is None else _reason_not_to(trainer, module)
        if self.off is None and plan is not None:
            self._places = Places.of(plan.total_steps, plan.batch_size, plan.micro_batch_size)
            self._beside = Beside(trainer, module)
            self._shares: Shares = trainer.fit_loop.epoch_loop.step.shares

    def meet(self, step: int, batch: Any) -> None:
        """A step is about to be made of this batch."""
        if self._places is None:
            return
        if self._before is not None:
            self._measure(step, batch)
        if self._places is not None and self._places.is_before(step):
            self._copy(step)

    def read(self) -> None:
        """Wait for what is on its way."""
        arriving, self._arriving = self._arriving, []
        for step, samples, size, values in arriving:
            numbers = [v if isfinite(v) else None for v in values.tolist()]
            if numbers[0] is not None:
                self.rows.append([step, samples, size, *numbers])
        if arriving:
            self._passes += self._beside.passes()

    def end(self) -> None:
        """No more of them."""
        self.times, self._before, self._places = _time_of_passes(self._passes), None, None

    def _copy(self, step: int) -> None:
        try:
            if not _has_room(self._beside.parameters):
                raise RuntimeError("little of the device's memory is free")
            self._before = step, self._beside.copy()
        except RuntimeError as error:
            self._give_up(error)

    def _measure(self, step: int, batch: Any) -> None:
        assert self._before is not None
        (copied, weights), self._before = self._before, None
        try:
            if (pieces := self._pieces(batch)) is not None:
                values = self._beside.measure(pieces, weights if copied == step - 1 else None)
                size = self._shares.sizes(batch).batch if batch_sampler(self._trainer) else 0
                self._arriving.append((step, sum(piece.samples for piece in pieces), size, values))
        except Exception as error:
            self._give_up(error)
        if self._arriving and self._arriving[-1][3].device.type == "cpu":
            self.read()

    def _give_up(self, error: Exception) -> None:
        self.off, self._places, self._before = f"{type(error).__name__}: {error}".splitlines()[0][:200], None, None
        log.debug("no gradients beside the training", exc_info=error)

    def _pieces(self, batch: Any) -> list[Piece] | None:
        """Two parts of this batch, or of samples read for it where it is small; None where it has too few.

        One is of a quarter of the samples: from the times of two sizes follows what a pass costs beside its samples.
        """
        trainer, shares, module = self._trainer, self._shares, self._module
        assert self._places is not None
        sampler, wanted = batch_sampler(trainer), self._places.samples
        samples = sampler.share_size(trainer.state_of_training.step) if sampler else shares.count(batch)
        if sampler is not None and samples < min(FEW, wanted):
            if sampler.num_samples < wanted:
                return None
            chosen = _some(sampler.num_samples, wanted, trainer.seed, trainer.logged_step)
            readings = [chosen[: wanted // 4], chosen[wanted // 4 :]]
            reader: Any = trainer.train_dataloader.dataset  # pyright: ignore
            to_device = trainer.fit_loop.epoch_loop.step.ways.to_device
            parts = [to_device(reader.__getitems__(Share(0, part))) for part in readings]
            sizes = [len(part) for part in readings]
        else:
            if samples < 4:
                return None
            count = min(samples, wanted)
            sizes = [count // 4, count - count // 4]
            parts = shares.cut(batch, sizes if count == samples else [*sizes, samples - count])[:2]
        return [Piece(part, n, weight_of(module, part, n)) for part, n in zip(parts, sizes, strict=True)]


def _reason_not_to(trainer: Trainer, module: L.LightningModule) -> str | None:
    if not hasattr(module, "loss_and_outputs"):
        return f"{type(module).__name__} has no loss_and_outputs(batch) to ask for a gradient"
    if not module.automatic_optimization:
        return f"{type(module).__name__} optimizes manually"
    if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
        return f"{type(trainer.strategy).__name__} shards or joins gradients in its own way"
    if trainer.speed.compile:
        return "the network is compiled, for steps of one kind"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return "16-mixed scales gradients"
    if any(isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse for part in module.modules()):
        return "gradients are sparse"
    if not trainer.is_global_zero:
        return "the first device measures"
    return None


def _has_room(parameters: Sequence[Tensor]) -> bool:
    """Whether a GPU has memory to spare for copies of weights and gradients, beside all that steps have taken."""
    if not parameters or parameters[0].device.type != "cuda":
        return bool(parameters)
    free, _ = torch.cuda.mem_get_info(parameters[0].device)
    return free > 5 * sum(p.numel() * p.element_size() for p in parameters)


def _time_of_passes(passes: Sequence[tuple[int, float]]) -> dict[str, float]:
    """What a pass through the network, forward and backward, costs beside its samples, and what each sample does, in
    milliseconds: medians over passes of two sizes, without the first of each, which warm up."""
    sizes = sorted({samples for samples, _ in passes})
    times = [[ms for samples, ms in passes if samples == size][1:] for size in sizes]
    if len(sizes) != 2 or min(map(len, times)) < 3:
        return {}
    (small, large), (short, long) = sizes, map(median, times)
    each = max((long - short) / (large - small), 0.0)
    return {"pass_ms": float(f"{max(short - each * small, 0.0):.4g}"), "sample_ms": float(f"{each:.4g}")}


def _some(num_samples: int, count: int, seed: int, step: int) -> Any:
    random = np.random.default_rng(np.random.SeedSequence((seed, step)))
    return random.choice(num_samples, count, replace=False)
