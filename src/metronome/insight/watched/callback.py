"""What a run has to know of itself to be given advice at its end."""

import logging
import os
import time
from math import ceil, isfinite
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm

from metronome.insight.instruments.log_points import groups_of
from metronome.insight.instruments.step_time import StepTime
from metronome.insight.watched.history import History, Row
from metronome.insight.watched.points import COLUMNS, Points
from metronome.training import Trainer

log = logging.getLogger("metronome.watched")

MOST_LOSSES = 2_000  # of single steps that are looked at in a run
TOGETHER = 50  # of them are read at once: one by one costs more


class Watched(Callback):
    """Gathers the evidence for advice, which result.json keeps as `watched`: the course of the losses, where the time
    of a step goes, and at some 10 steps of a run two gradients of parts of a batch, made beside the training.

    From these gradients follow the noise scale of the gradient, and how far along the last step the loss would have
    been lowest (`beside.py`). They are made so seldom
    that they go through 3 % of the samples that the steps do; its hooks took 3.6 % of the processor time of the
    main job, and 3.7 % of that of `minibatch`. Other steps are left alone. Weights, metrics and random numbers stay as
    they are, to the bit. What was seen before is in each checkpoint.

    The gradients are asked of `loss_and_outputs`, which a Classifier or Regressor has; of other modules, under
    strategies that shard, with torch.compile or 16-mixed, and where a GPU's memory is short there are none, and
    `watched` says why.
    """

    def __init__(self) -> None:
        self._history, self._rows = History(), []  # and of its points
        self._extremes: list[Any] = [None, None]  # the first loss and the highest
        self._forget()

    def _forget(self) -> None:
        self._row = Row(0, 0, 0)
        self._losses: list[Tensor] = []  # on the device
        self._points: Points | None = None
        self._loss_every = 0
        self._off: str | None = None
        self._facts: dict[str, Any] = {}
        self._began: tuple[float, float, int | None] | None = None
        self._trainer: Any = None

    # ---- before and after ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        row = self._row
        self._forget()
        self._row = row
        if trainer.global_step == 0:
            self._history, self._rows, self._extremes, self._row = History(), [], [None, None], Row(0, 0, 0)
        if not isinstance(trainer, Trainer):
            return
        plan = trainer.plan  # asked for on every device
        self._trainer = trainer
        steps = None if plan is None else plan.total_steps
        self._loss_every = 1 if steps is None else max(1, ceil(steps / MOST_LOSSES))
        self._facts = _facts(trainer, pl_module)
        self._points = Points(trainer, pl_module, plan, self._rows)
        self._began = time.monotonic(), time.process_time(), _preemptions()

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
        preempted, before = _preemptions(), self._began[2]
        self._began = None
        self._facts |= {"wall_seconds": wall, "cpu_seconds": cpu}
        self._facts["preempted"] = None if preempted is None or before is None else preempted - before
        clock = next((c for c in trainer.callbacks if isinstance(c, StepTime)), None)  # pyright: ignore
        self._facts["step_ms"] = {name: _short(ms) for name, ms in ({} if clock is None else clock.means()).items()}
        try:
            self._read()
        except RuntimeError as error:  # of a device that has failed: what it had to tell is lost
            self._losses = []
            log.debug("lost: %s", error)
        if self._points is not None:
            self._points.end()
            self._facts |= self._points.times
            self._off, self._points = self._points.off, None
        if self._row.losses:
            self._end_row(trainer, None)
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        self._read()
        row = self._row
        return {
            "history": self._history.state(),
            "points": [list(row) for row in self._rows],
            "row": [row.losses, row.mean, row.squares],
            "extremes": list(self._extremes),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._history.restore(state_dict["history"])
        self._rows = [list(row) for row in state_dict["points"]]
        self._row = Row(0, 0, 0, *state_dict["row"])
        self._extremes = list(state_dict["extremes"])

    @property
    def watched(self) -> dict[str, Any]:
        """All that was seen, for result.json."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(COLUMNS)
        points = {name: [_short(v) for v in column] for name, column in zip(COLUMNS, columns, strict=True)}
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
        if self._points is not None:
            self._points.meet(trainer.logged_step, batch)  # pyright: ignore

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._loss_every or trainer.logged_step % self._loss_every:  # pyright: ignore
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach().reshape(()))
            if len(self._losses) > (TOGETHER if loss.device.type == "cpu" else MOST_LOSSES):
                self._read_losses()

    # ---- the course of the losses ------------------------------------------------------------------------------

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._trainer is not None and not trainer.sanity_checking and self._began is not None:
            name, mode, value = _judged(trainer)
            if value is not None:
                self._facts |= {"monitor": name, "mode": mode}
            self._end_row(trainer, value)

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
        if self._points is not None:
            self._points.read()

    def _read_losses(self) -> None:
        if self._losses:
            losses, self._losses = self._losses, []
            for loss in [losses[0].item()] if len(losses) == 1 else torch.stack(losses).tolist():
                if isfinite(loss):
                    self._row.add(loss)
                    first, highest = self._extremes
                    self._extremes = [loss if first is None else first, loss if highest is None else max(loss, highest)]


def watched_by(trainer: Any) -> dict[str, Any] | None:
    """What the callback of a Trainer has seen; None without one."""
    return next((callback.watched for callback in trainer.callbacks if isinstance(callback, Watched)), None)


def _preemptions() -> int | None:
    """How often others have been given a core that this process was using; None where the system does not say."""
    try:
        import resource  # there is none on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _facts(trainer: Trainer, module: L.LightningModule) -> dict[str, Any]:
    device = trainer.strategy.root_device
    group, optimizer = next(iter(groups_of(trainer)), {}), trainer.optimizers[0] if trainer.optimizers else None
    return {
        # The rate before schedules and warm-ups, and what goes by it: a module may make its own optimizer.
        "optimizer": None if optimizer is None else type(getattr(optimizer, "optimizer", optimizer)).__name__,
        "lr": float(group.get("initial_lr", group["lr"])) if "lr" in group else None,
        "device": device.type,
        "device_memory_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "batch_norm": any(isinstance(part, _BatchNorm) for part in module.modules()),
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
    }


def _judged(trainer: Any) -> tuple[str, str, float] | tuple[None, None, None]:
    """The metric that a checkpoint is chosen by, or the loss of the validation: name, whether its least or greatest
    value is the best (`min`, `max`), and value."""
    monitors = [(getattr(c, "monitor", None), getattr(c, "mode", "min")) for c in trainer.checkpoint_callbacks]
    for name, mode in [*monitors, ("val/loss", "min"), ("val_loss", "min")]:
        value = trainer.callback_metrics.get(name) if name else None
        if value is not None:
            return name, mode, float(value)
    return None, None, None


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
