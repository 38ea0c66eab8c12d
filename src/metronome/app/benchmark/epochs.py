"""What an epoch of one step costs, and what a validation does."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from metronome.app.benchmark.asked import CASES, Asked
from metronome.app.benchmark.measuring import Case, Stopwatch, Way, clock_of
from metronome.app.benchmark.tasks import LINEAR, line, sgd
from metronome.app.benchmark.ways import QUIET, Data, Module, loader_of
from metronome.training import Trainer

_BATCH = LINEAR.batch_size
_PART, _WARMUP = 1 / 3, 5  # of the steps asked for; epochs


def epochs_case(name: str, asked: Asked) -> Case:
    """`epoch` or `validation`: microseconds an epoch."""
    batches = 10 if name == "validation" else 0
    epochs, clock = max(1, round(asked.steps * _PART)), clock_of(asked.clock)

    def measure(way: Callable[[Stopwatch, int], None]) -> float:
        stopwatch = Stopwatch(clock, epochs, _WARMUP)
        way(stopwatch, batches)
        return stopwatch.micros

    ways = {"bare loop": _bare, "Lightning": _lightning, "Metronome": _metronome}
    return Case(
        name,
        CASES[name],
        "us an epoch",
        [Way(way, partial(measure, function), ("bare loop", "Lightning")) for way, function in ways.items()],
        ("bare", "Lightning"),
        shows_added=True,
    )


class ValidatedModule(Module):
    """One whose validation has a value to log."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.task.loss(self.network, batch[0], batch[1])
        self.log("val/loss", loss)
        return loss


class Epochs(Callback):
    """Tells a stopwatch of each epoch, which a validation is a part of."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def on_train_epoch_end(self, *_: Any) -> None:
        self.stopwatch.step_done()


def _bare(stopwatch: Stopwatch, batches: int) -> None:
    network, (x, y), (x_val, y_val) = LINEAR.start(), line(_BATCH), line(_BATCH * max(batches, 1))
    optimizer = sgd(network.parameters())
    while True:
        index = torch.randperm(len(x))
        optimizer.zero_grad()
        LINEAR.loss(network, x[index], y[index]).backward()
        optimizer.step()
        if batches:
            _validate(network, x_val, y_val)
        if stopwatch.step_done():
            return


@torch.no_grad()
def _validate(network: nn.Module, x: Tensor, y: Tensor) -> float:
    network.eval()
    pairs = zip(x.split(_BATCH), y.split(_BATCH), strict=True)
    total = sum(LINEAR.loss(network, inputs, targets) * len(inputs) for inputs, targets in pairs)
    network.train()
    return float(total) / len(x)


def _lightning(stopwatch: Stopwatch, batches: int) -> None:
    train, val = loader_of(line(_BATCH), _BATCH, shuffle=True), None
    if batches:
        val = loader_of(line(_BATCH * batches), _BATCH, shuffle=False)
    L.Trainer(**_flags(stopwatch)).fit(ValidatedModule(LINEAR) if batches else Module(LINEAR), train, val)


def _metronome(stopwatch: Stopwatch, batches: int) -> None:
    val = line(_BATCH * batches) if batches else None
    Trainer(**_flags(stopwatch)).fit(
        ValidatedModule(LINEAR) if batches else Module(LINEAR), datamodule=_OneStep(LINEAR, val, batch_size=_BATCH)
    )


class _OneStep(Data):
    """Training samples for one step."""

    def load(self) -> Any:
        return super().load()._replace(train=line(_BATCH))


def _flags(stopwatch: Stopwatch) -> dict[str, Any]:
    return QUIET | {"callbacks": [Epochs(stopwatch)], "max_epochs": stopwatch.last, "devices": 1}
