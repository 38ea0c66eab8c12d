"""What a step costs: the same small training in a plain loop, in Lightning, and here, side by side in one run.

A linear model from 10 numbers to 1 with batches of 100: there is next to nothing to compute, so what is measured is
what each way adds to a step.
"""

import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from metronome.app.console import output
from metronome.data import DataModule, Splits
from metronome.training import Trainer

BATCH_SIZE, NUM_SAMPLES, WARMUP_STEPS = 100, 10_000, 50
_QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_epochs": -1,
    "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0,
}  # fmt: skip


class Model(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.layer(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Data(DataModule):
    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(10, 1, generator=generator)
        x = torch.randn(NUM_SAMPLES, 10, generator=generator)
        return Splits(train=(x, x @ weights + 0.1 * torch.randn(NUM_SAMPLES, 1, generator=generator)))


class Clock(Callback):
    """Seconds from the end of the warm-up to the end of the last step."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == WARMUP_STEPS:
            self.began = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.began


def plain_loop(steps: int) -> float:
    """Batches of index tensors from tensors in memory: what Metronome reads, without anything around it."""
    x, y = Data().splits.train.columns
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    began, step = 0.0, 0
    while step < WARMUP_STEPS + steps:
        for index in torch.randperm(NUM_SAMPLES).split(BATCH_SIZE):
            optimizer.zero_grad()
            model.training_step((x[index], y[index]), step).backward()
            optimizer.step()
            step += 1
            if step == WARMUP_STEPS:
                began = time.perf_counter()
            if step == WARMUP_STEPS + steps:
                break
    return time.perf_counter() - began


def lightning(steps: int) -> float:
    """Lightning's own Trainer on a shuffled DataLoader over the same tensors."""
    rows = TensorDataset(*Data().splits.train.columns)
    clock = Clock()
    trainer = L.Trainer(callbacks=[clock], max_steps=WARMUP_STEPS + steps, **_QUIET)
    trainer.fit(Model(), DataLoader(rows, BATCH_SIZE, shuffle=True))
    return clock.seconds


def metronome(steps: int, accumulation: int = 1) -> float:
    """Our Trainer and data module."""
    clock = Clock()
    flags: dict[str, Any] = _QUIET | {"max_steps": WARMUP_STEPS + steps, "accumulate_grad_batches": accumulation}
    Trainer(callbacks=[clock], **flags).fit(Model(), datamodule=Data(BATCH_SIZE))
    return clock.seconds


WAYS: dict[str, Callable[[int], float]] = {
    "plain loop": plain_loop,
    "Lightning": lightning,
    "Metronome": metronome,
    "Metronome, 4 micro-batches": lambda steps: metronome(steps, 4),
}


def benchmark(steps: int, rounds: int) -> str:
    """Run each way once a round, in turn, so that a noisy moment meets them all; a table of medians and spreads.

    The ratio is the median over the rounds of the time divided by Lightning's in the same round.
    """
    output.quiet()
    warnings.filterwarnings("ignore", message=".*Skipping val loop")  # only steps are measured
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            times[name].append(way(steps) / steps * 1e6)
    lines = [
        f"{steps} steps, {rounds} rounds, one thread of {platform.processor() or platform.machine()}; "
        f"torch {torch.__version__}, lightning {L.__version__}",
        f"{'':28}{'us a step':>10}  {'lowest to highest':>18}  {'to Lightning':>12}",
    ]
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["Lightning"], strict=True))
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        lines.append(f"{name:28}{statistics.median(values):>10,.0f}  {spread:>18}  {ratio:>11.2f}x")
    return "\n".join(lines)
