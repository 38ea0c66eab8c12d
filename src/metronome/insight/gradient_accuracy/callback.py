"""How accurate the gradient of a batch is, by batch size, measured at some points of a training."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from metronome.insight.gradient_accuracy.accuracy import measured, predicted, sizes_up_to
from metronome.insight.gradient_accuracy.gradients import Gradients, without_prefix
from metronome.insight.noise_scale.estimate import estimates
from metronome.training import Trainer
from metronome.training.checkpoints.files import written_aside
from metronome.units import Duration, InputError, check_number

_PIECES = 256  # into which all samples are cut for the noise scale


@dataclass(frozen=True)
class Accuracy:
    """A row of gradient.csv: after so many steps, of batches of one size. Cosine and error are against the gradient of
    all samples; `noise_scale` is that of all of them at these weights, and the predictions follow from it."""

    step: int
    batch_size: int
    batches: int
    cosine: float
    cosine_predicted: float
    error: float
    error_predicted: float
    noise_scale: float


@dataclass(frozen=True)
class Layer:
    """A row of gradient_layers.csv: the root mean square of the numbers of a parameter's full gradient."""

    step: int
    parameter: str
    numbers: int
    gradient: float


class GradientAccuracy(Callback):
    """Writes gradient.csv and gradient_layers.csv into a folder, for `+study=gradient`; the training stays as it is.

    At each point all samples are gone through once in up to 256 pieces in random order, which gives the full gradient
    and the noise scale tr(S)/|G|^2; then, for each batch size, random batches are drawn and their gradients compared.
    On several devices the first one measures, and the others wait.

    Args:
        folder: to write to.
        at: when, as durations from the beginning; `100%` is after the last step.
        batch_sizes: in samples; None: 1, 2, 4, ... and all samples.
        batches: at most drawn of each size.

    Raises:
        InputError: for a module or data whose gradients cannot be asked for (`gradients.py`), no known end, and a
            Trainer that is not Metronome's.
    """

    def __init__(
        self,
        folder: str,
        at: Sequence[str | Duration] = ("0%", "5%", "50%", "100%"),
        batch_sizes: Sequence[int] | None = None,
        batches: int = 100,
    ) -> None:
        check_number("callbacks.gradient.batches", batches, "batches")
        self.folder, self.at, self.batch_sizes, self.batches = Path(folder), list(at), batch_sizes, batches
        self.rows: list[Accuracy] = []
        self.layers: list[Layer] = []
        self._steps: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "layers": [asdict(layer) for layer in self.layers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [Accuracy(**row) for row in state_dict["rows"]]
        self.layers = [Layer(**layer) for layer in state_dict["layers"]]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(trainer, Trainer):
            raise InputError("GradientAccuracy looks at trainings of metronome.training.Trainer, and this is another")
        plan = trainer.plan
        if plan is None or plan.total_steps is None:
            raise InputError("the accuracy of gradients is measured at parts of a training, which must have an end")
        self._steps = [plan.steps(duration) for duration in self.at]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._measure_if_due(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure_if_due(trainer)

    def _measure_if_due(self, trainer: Any) -> None:
        step = trainer.global_step
        if step not in self._steps or not trainer.is_global_zero or any(row.step == step for row in self.rows):
            return
        gradients = Gradients(trainer)
        with gradients.ready():
            rows, layers = _measure(gradients, step, self.batch_sizes, self.batches, trainer.seed)
        self.rows += rows
        self.layers += layers
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "gradient.csv", Accuracy, self.rows)
        _write(self.folder / "gradient_layers.csv", Layer, self.layers)


def _measure(
    gradients: Gradients, step: int, batch_sizes: Sequence[int] | None, batches: int, seed: int
) -> tuple[list[Accuracy], list[Layer]]:
    num_samples = gradients.num_samples
    random = np.random.default_rng(np.random.SeedSequence((seed, step)))
    pieces = np.array_split(random.permutation(num_samples), min(_PIECES, num_samples))
    found = [gradients.of(piece) for piece in pieces]
    weights = sum(weight for _, weight in found)
    full = sum((gradient * (weight / weights) for gradient, weight in found), torch.zeros(()).double())
    squared = float(full.square().sum())
    parts = sum(float(gradient.square().sum()) * weight / weights for gradient, weight in found)
    # The gradient of all samples is known, and has no noise of its own.
    noise_scale = estimates(parts, squared, num_samples, len(pieces))[1] / squared
    rows = []
    for size in batch_sizes or sizes_up_to(num_samples):
        count = 1 if size >= num_samples else batches
        drawn = [gradients.of(random.choice(num_samples, min(size, num_samples), replace=False))[0]
                 for _ in range(count)]  # fmt: skip
        cosine, error = measured(
            [float(g @ full) for g in drawn], [float(g.square().sum()) for g in drawn], squared
        )  # fmt: skip
        cosine_predicted, error_predicted = predicted(noise_scale, min(size, num_samples), num_samples)
        rows.append(Accuracy(step, size, count, cosine, cosine_predicted, error, error_predicted, noise_scale))
    by_name = gradients.by_parameter(full)
    names = without_prefix(list(by_name), gradients.module)
    layers = [Layer(step, name, part.numel(), float(part.square().mean().sqrt()))
              for name, part in zip(names, by_name.values(), strict=True)]  # fmt: skip
    return rows, layers


def _write(path: Path, kind: Any, rows: Sequence[Any]) -> None:
    with written_aside(path, newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" if isinstance(value, float) else value
                          for name, value in asdict(row).items()} for row in rows)  # fmt: skip
