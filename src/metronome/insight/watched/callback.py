"""What a run has to know of itself to be given advice at its end."""

import logging
import os
import time
from collections.abc import Sequence
from math import ceil, isfinite
from statistics import median
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metronome.insight.instruments.log_points import groups_of
from metronome.insight.instruments.step_time import StepTime
from metronome.insight.watched.beside import NAMES, Beside, Piece, weight_of
from metronome.insight.watched.history import History, Row
from metronome.insight.watched.places import Places
from metronome.training import Share, Trainer
from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.shares import Shares

log = logging.getLogger("metronome.watched")

MOST_LOSSES = 2_000  # of single steps that are looked at in a run
FEW = 16  # samples of a batch that is too small to be cut in two for a gradient of each half


class Watched(Callback):
    """Gathers the evidence for advice, which result.json keeps as `watched`: the course of the losses, where the time
    of a step goes, and at some 10 steps of a run two gradients of parts of a batch, made beside the training.

    From these gradients follow the noise scale of the gradient, and how far along the last step the loss would have
    been lowest (`beside.py`). They take up to 3 % of what the steps do; other steps are left alone. Weights, metrics
    and random numbers stay as they are, to the bit. What was seen before is in each checkpoint.

    The gradients are asked of `loss_and_outputs`, which a Classifier or Regressor has; of other modules, under
    strategies that shard, with torch.compile or 16-mixed, and where a GPU's memory is short there are none, and
    `watched` says why.
    """

    def __init__(self) -> None:
        self._history, self._points = History(), []
        self._extremes: list[Any] = [None, None]  # the first loss and the highest
        self._forget()

    def _forget(self) -> None:
        self._row = Row(0, 0, 0)
        self._arriving: list[tuple[int, int, int, Tensor]] = []  # of points: step, samples, batch; on the device
        self._losses: list[Tensor] = []  # likewise
        self._places: Places | None = None
        self._loss_every = 0
        self._before: tuple[int, list[Tensor]] | None = None  # step, weights
        self._beside: Beside | None = None
        self._off: str | None = None
        self._facts: dict[str, Any] = {}
        self._began: tuple[float, float] | None = None
        self._trainer: Any = None
        self._passes: list[tuple[int, float]] = []

    # ---- before and after ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        row = self._row
        self._forget()
        self._row = row
        if trainer.global_step == 0:
            self._history, self._points, self._extremes, self._row = History(), [], [None, None], Row(0, 0, 0)
        if not isinstance(trainer, Trainer):
            return
        plan = trainer.plan  # asked for on every device
        self._trainer = trainer
        steps = None if plan is None else plan.total_steps
        self._loss_every = 1 if steps is None else max(1, ceil(steps / MOST_LOSSES))
        self._facts = _facts(trainer, pl_module)
        self._off = _reason_not_to(trainer, pl_module)
        if self._off is None and plan is not None:
            self._places = Places.of(steps, plan.batch_size, plan.micro_batch_size)
            self._beside = Beside(trainer, pl_module)
            epoch_loop = trainer.fit_loop.epoch_loop
            self._shares: Shares = epoch_loop.step.shares
        elif plan is None:
            self._off = "the data have no length"
        self._began = time.monotonic(), time.process_time()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end(trainer)
        if trainer.world_size > 1 and distributed.is_initialized():
            waits: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(waits, self._facts.get("step_ms", {}).get("data"))
            self._facts["data_ms_of_devices"] = waits

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end(trainer)

    def _end(self, trainer: L.Trainer) -> None:
        if self._trainer is None or self._began is None:
            return
        wall, cpu = time.monotonic() - self._began[0], time.process_time() - self._began[1]
        self._began = None
        self._facts |= {"wall_seconds": wall, "cpu_seconds": cpu}
        clock = next((c for c in trainer.callbacks if isinstance(c, StepTime)), None)  # pyright: ignore
        self._facts["step_ms"] = {name: _short(ms) for name, ms in ({} if clock is None else clock.means()).items()}
        try:
            self._read()
        except RuntimeError as error:  # of a device that has failed: what it had to tell is lost
            self._arriving, self._losses = [], []
            log.debug("lost: %s", error)
        self._facts |= _time_of_passes(self._passes)
        if self._row.losses:
            self._end_row(trainer, None)
        self._before, self._beside, self._trainer = None, None, None

    def state_dict(self) -> dict[str, Any]:
        self._read()
        row = self._row
        return {
            "history": self._history.state(),
            "points": [list(point) for point in self._points],
            "row": [row.losses, row.mean, row.squares],
            "extremes": list(self._extremes),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._history.restore(state_dict["history"])
        self._points = [list(point) for point in state_dict["points"]]
        self._row = Row(0, 0, 0, *state_dict["row"])
        self._extremes = list(state_dict["extremes"])

    @property
    def watched(self) -> dict[str, Any]:
        """All that was seen, for result.json."""
        columns = list(zip(*self._points, strict=True)) or [[]] * (3 + len(NAMES))
        names = ("step", "samples", "batch_size", *NAMES)
        points = {name: [_short(v) for v in column] for name, column in zip(names, columns, strict=True)}
        first, highest = map(_short, self._extremes)
        return self._facts | {
            "first_loss": first,
            "highest_loss": highest,
            "history": self._history.columns(),
            "gradients": points,
            "no_gradients": self._off,
        }

    # ---- at a step -------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._places is None:
            return
        step: int = trainer.logged_step  # pyright: ignore
        if self._before is not None:
            self._measure(step, batch)
        if self._places is not None and self._places.is_before(step):
            self._copy(step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._loss_every or trainer.logged_step % self._loss_every:  # pyright: ignore
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach().reshape(()))
            if loss.device.type == "cpu" or len(self._losses) > MOST_LOSSES:
                self._read_losses()

    def _copy(self, step: int) -> None:
        beside = self._beside
        assert beside is not None
        try:
            if not _has_room(beside.parameters):
                raise RuntimeError("little of the device's memory is free")
            self._before = step, beside.copy()
        except RuntimeError as error:
            self._give_up(error)

    def _measure(self, step: int, batch: Any) -> None:
        """A point, right before a step; nothing that goes wrong in it is worth a training."""
        assert self._before is not None
        assert self._beside is not None
        (copied, weights), self._before = self._before, None
        try:
            if (pieces := self._pieces(batch)) is not None:
                values = self._beside.measure(pieces, weights if copied == step - 1 else None)
                size = self._shares.sizes(batch).batch if batch_sampler(self._trainer) else 0
                self._arriving.append((step, sum(piece.samples for piece in pieces), size, values))
        except Exception as error:
            self._give_up(error)
        if self._arriving and self._arriving[-1][3].device.type == "cpu":
            self._read_points()

    def _give_up(self, error: Exception) -> None:
        self._off, self._places, self._before = f"{type(error).__name__}: {error}".splitlines()[0][:200], None, None
        log.debug("no gradients beside the training", exc_info=error)

    def _pieces(self, batch: Any) -> list[Piece] | None:
        """Two parts of this batch, or of samples read for it where it is small; None where it has too few.

        One is of a quarter of the samples: from the times of two sizes follows what a pass costs beside its samples.
        """
        trainer, shares, module = self._trainer, self._shares, self._trainer.lightning_module
        assert self._places is not None
        sampler, wanted = batch_sampler(trainer), self._places.samples
        samples = sampler.share_size(trainer.state_of_training.step) if sampler else shares.count(batch)
        if sampler is not None and samples < min(FEW, wanted):
            if sampler.num_samples < wanted:
                return None
            chosen = _some(sampler.num_samples, wanted, trainer.seed, trainer.logged_step)
            readings = [chosen[: wanted // 4], chosen[wanted // 4 :]]
            reader: Any = trainer.train_dataloader.dataset
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

    # ---- the course of the losses ------------------------------------------------------------------------------

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._trainer is not None and not trainer.sanity_checking and self._began is not None:
            self._end_row(trainer, _judged(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._trainer is not None and not trainer.enable_validation:
            self._end_row(trainer, None)

    def _end_row(self, trainer: Any, val: float | None) -> None:
        self._read()
        row, self._row = self._row, Row(0, 0, 0)
        row.step, row.epoch, row.samples = trainer.global_step, trainer.counters.epochs, trainer.counters.samples
        rates = [group["lr"] for group in groups_of(trainer) if "lr" in group]
        row.val, row.lr = val, float(rates[0]) if rates else None
        self._history.end(row)

    def _read(self) -> None:
        self._read_losses()
        self._read_points()

    def _read_losses(self) -> None:
        if self._losses:
            losses, self._losses = self._losses, []
            for loss in [losses[0].item()] if len(losses) == 1 else torch.stack(losses).tolist():
                if isfinite(loss):
                    self._row.add(loss)
                    first, highest = self._extremes
                    self._extremes = [loss if first is None else first, loss if highest is None else max(loss, highest)]

    def _read_points(self) -> None:
        arriving, self._arriving = self._arriving, []
        for step, samples, size, values in arriving:
            numbers = [v if isfinite(v) else None for v in values.tolist()]
            if numbers[0] is not None:
                self._points.append([step, samples, size, *numbers])
        if arriving and self._beside is not None:
            self._passes += self._beside.passes()


def watched_by(trainer: Any) -> dict[str, Any] | None:
    """What the callback of a Trainer has seen; None without one."""
    return next((callback.watched for callback in trainer.callbacks if isinstance(callback, Watched)), None)


def _facts(trainer: Trainer, module: L.LightningModule) -> dict[str, Any]:
    device = trainer.strategy.root_device
    return {
        "device": device.type,
        "device_memory_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "batch_norm": any(isinstance(part, _BatchNorm) for part in module.modules()),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
    }


def _judged(trainer: Any) -> float | None:
    """The metric that a checkpoint is chosen by, or the loss of the validation."""
    monitors = [getattr(callback, "monitor", None) for callback in trainer.checkpoint_callbacks]
    for name in [*monitors, "val/loss", "val_loss"]:
        value = trainer.callback_metrics.get(name) if name else None
        if value is not None:
            return float(value)
    return None


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
    import numpy as np

    random = np.random.default_rng(np.random.SeedSequence((seed, step)))
    return random.choice(num_samples, count, replace=False)


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
