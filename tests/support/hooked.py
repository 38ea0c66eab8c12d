"""A training with a hook for everything, run by Lightning's own Trainer and by ours."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import SingleDeviceStrategy
from recorder import Journal, difference, digest
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from metronome.training import Trainer

Kind = type[L.Trainer]
Run = Callable[[Kind, Journal], Any]

for _name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.ERROR)

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def loader(samples: int = 15) -> DataLoader:
    """4 steps of 4 samples, the last of 3."""
    return DataLoader(TensorDataset(X[:samples], Y[:samples]), batch_size=4)


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader(5)

    test_dataloader = predict_dataloader = val_dataloader


class Module(L.LightningModule):
    """Mean squared error of a small network with BatchNorm; SGD with momentum; a rate that falls by steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9), "interval": "step"}]


class Everything(Module):
    """The same, with a torchmetric, a value of the epoch and one from a hook, and schedulers by step and by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.seen(loss.detach())
        self.log("seen", self.seen, on_step=False, on_epoch=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("norm", nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None]))

    def on_train_epoch_end(self) -> None:
        self.log("epoch value", float(self.current_epoch))

    def configure_optimizers(self) -> Any:
        (optimizer,), (by_step,) = super().configure_optimizers()
        return [optimizer], [by_step, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)]


class First(Callback):
    pass


class Second(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.log("from a callback", 1.0)  # pyright: ignore  # Lightning puts it there


class Log(Logger):
    @property
    def name(self) -> str:
        return "log"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


def trainer(kind: Kind, journal: Journal | None = None, **flags: Any) -> Any:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_epochs": 2, "logger": False, "enable_checkpointing": False,
        "log_every_n_steps": 2, "num_sanity_val_steps": 0, "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    run = kind(**quiet | flags)
    if journal is not None:
        journal.trainer = run
    return run


def fit(kind: Kind, journal: Journal, module: L.LightningModule | None = None, **options: Any) -> Any:
    """Fit with one callback of which each hook is noted; what is left at the end, to compare."""
    module, data, loaders = module or Module(), options.pop("data", None), options.pop("loaders", None)
    callbacks = [*options.pop("callbacks", []), journal.recording(First, Callback)()]
    run = trainer(kind, journal, callbacks=callbacks, **options)
    if loaders is None:
        run.fit(module, datamodule=data or Data())
    else:
        run.fit(module, loaders, loader(5))
    return left(run, module)


def left(run: Any, module: nn.Module) -> Any:
    """Counters, logged values and weights at the end of a training."""
    values = {name: float(value) for name, value in run.callback_metrics.items()}
    return run.global_step, run.current_epoch, values, {name: digest(w) for name, w in module.state_dict().items()}


def fully_recorded(kind: Kind, journal: Journal, strategy: bool, **flags: Any) -> tuple[Any, Any, Any]:
    """A trainer, a module and a data module of which every hook is noted, with two callbacks, a logger and, if wanted,
    the strategy."""
    record = journal.recording
    callbacks = [record(First, Callback)(), record(Second, Callback)(), *flags.pop("callbacks", [])]
    if strategy:
        flags["strategy"] = record(SingleDeviceStrategy, SingleDeviceStrategy)(device="cpu")
    run = trainer(
        kind,
        journal,
        callbacks=callbacks,
        logger=record(Log, Logger)(),
        **{"val_check_interval": 2, "gradient_clip_val": 0.5, "enable_checkpointing": bool(callbacks[2:]), **flags},
    )
    return run, record(Everything, L.LightningModule)(), record(Data, L.LightningDataModule)()


def outcome(run: Run, kind: Kind) -> tuple[Journal, Any]:
    """The journal and what was left, or the error that ended it."""
    journal = Journal()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return journal, run(kind, journal)
        except (Exception, SystemExit) as error:
            return journal, f"{type(error).__name__}: {error}"


def same(run: Run, as_ours: Callable[[list[Any]], list[Any]] = list) -> tuple[Journal, Any]:
    """Check that Lightning's Trainer and ours make of a run the same, call by call and to the last bit.

    Args:
        run: given the kind of Trainer and a journal.
        as_ours: what is known to be different, done to the journal of Lightning's Trainer.

    Returns: our journal, and what was left.
    """
    (stock, there), (ours, here) = outcome(run, L.Trainer), outcome(run, Trainer)
    assert_same(as_ours(stock), ours)
    if here != there:
        pytest.fail(f"what is left differs:\n  stock  {there}\n  ours   {here}")
    return ours, here


def assert_same(stock: list[Any], ours: list[Any]) -> None:
    if text := difference(stock, ours):
        pytest.fail(f"journals differ: {text}")


def folder(path: Path, kind: Kind) -> Path:
    """One for each kind of Trainer."""
    return path / ("ours" if kind is Trainer else "stock") / "checkpoints"
