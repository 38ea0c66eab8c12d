"""Ways to train a task for so many steps: plain loops, Lightning's Trainer, and ours."""

import warnings
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from metronome.app.benchmark.measuring import Stopwatch
from metronome.app.benchmark.tasks import Task
from metronome.app.console import output
from metronome.data import DataModule, Splits
from metronome.training import Trainer

# Trains a task until the stopwatch has its last step; returns the network as it is then.
Training = Callable[..., nn.Module]
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": -1,
    "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip
_TRAINING: dict[str, Any] = QUIET | {"limit_val_batches": 0}


def bare(task: Task, stopwatch: Stopwatch, *, shuffle: bool = True, parts: int = 1) -> nn.Module:
    """Batches by index tensors from tensors in memory, and a plain loop: as little as a step can cost.

    Args:
        task: with tensors as data.
        stopwatch: told of each step.
        shuffle: whether to reorder the samples each epoch.
        parts: micro-batches into which each batch is cut.
    """
    network, (x, y) = task.start(), task.data()
    optimizer = task.optimizer(network.parameters())
    while True:
        order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
        for index in order.split(task.batch_size):
            optimizer.zero_grad()
            if parts == 1:
                task.loss(network, x[index], y[index]).backward()
            else:
                pieces = zip(x[index].tensor_split(parts), y[index].tensor_split(parts), strict=True)
                for inputs, targets in pieces:
                    (task.loss(network, inputs, targets) * (len(inputs) / len(index))).backward()
            optimizer.step()
            if stopwatch.step_done():
                return network


def textbook(task: Task, stopwatch: Stopwatch, *, shuffle: bool = True, workers: int = 0) -> nn.Module:
    """A DataLoader that reads sample by sample, and a loop that adds up the losses, as tutorials have it."""
    network, loader = task.start(), loader_of(task.data(), task.batch_size, shuffle, workers)
    optimizer = task.optimizer(network.parameters())
    total = 0.0
    while True:
        for x, y in loader:
            optimizer.zero_grad()
            loss = task.loss(network, x, y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            if stopwatch.step_done():
                return network


def lightning(
    task: Task, stopwatch: Stopwatch, *, shuffle: bool = True, workers: int = 0, devices: int = 1, **flags: Any
) -> nn.Module:
    """Lightning's own Trainer on the textbook's DataLoader.

    Args:
        task, stopwatch, shuffle: as above.
        workers: processes that read ahead.
        devices: processes that train; each loads its part of a batch.
        flags: of the Trainer.
    """
    loader = loader_of(task.data(), task.batch_size // devices, shuffle, workers)
    trainer = L.Trainer(callbacks=[Steps(stopwatch)], max_steps=stopwatch.last, devices=devices, **_TRAINING | flags)
    module = Module(task)
    trainer.fit(module, loader)
    return module.network


def metronome(
    task: Task,
    stopwatch: Stopwatch,
    *,
    shuffle: bool = True,
    workers: int = 0,
    devices: int = 1,
    parts: int = 1,
    logs: bool = False,
    **flags: Any,
) -> nn.Module:
    """Our Trainer and data module, as they are by default.

    Args:
        task, stopwatch, shuffle, workers, devices, flags: as above.
        parts: micro-batches into which each batch is cut.
        logs: whether the loss is logged, every 50 steps to TensorBoard.
    """
    module = Module(task, logs)
    with TemporaryDirectory() as folder:
        logger: dict[str, Any] = {"logger": TensorBoardLogger(folder)} if logs else {}
        trainer = Trainer(
            callbacks=[Steps(stopwatch)],
            max_steps=stopwatch.last,
            devices=devices,
            accumulate_grad_batches=parts,
            **_TRAINING | logger | flags,
        )
        trainer.fit(module, datamodule=Data(task, batch_size=task.batch_size, shuffle=shuffle, num_workers=workers))
    return module.network


def be_quiet() -> None:
    """Keep off the terminal what Lightning has to say."""
    output.quiet()
    warnings.filterwarnings("ignore", message=".*Skipping val loop")  # only steps are measured


class Module(L.LightningModule):
    """A task, as Lightning's Trainer and ours take it."""

    def __init__(self, task: Task, logs: bool = False) -> None:
        super().__init__()
        self.network, self.task, self.logs = task.start(), task, logs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.task.loss(self.network, batch[0], batch[1])
        if self.logs:
            self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.task.optimizer(self.parameters())


class Data(DataModule):
    """The data of a task; rows to validate on are given apart."""

    def __init__(self, task: Task, val: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.task, self.val = task, val

    def load(self) -> Splits:
        return Splits(train=self.task.data(), val=self.val)


class Steps(Callback):
    """Tells a stopwatch of each step."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def on_train_batch_end(self, *_: Any) -> None:
        self.stopwatch.step_done()


def loader_of(data: Any, batch_size: int, shuffle: bool, workers: int = 0) -> DataLoader:
    """A DataLoader as anybody would write it."""
    rows = data if isinstance(data, Dataset) else TensorDataset(*data)
    return DataLoader(rows, batch_size, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0)
