"""A small training in float64, run by our Trainer, and the same worked in a plain PyTorch loop."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from metronome.data import DataModule, Splits
from metronome.training import Trainer
from metronome.training.batches.seeds import epoch_order

N, FEATURES, SEED = 157, 10, 7

_generator = torch.Generator().manual_seed(3)
X = torch.randn(N, FEATURES, generator=_generator, dtype=torch.float64)
Y = torch.randn(N, 1, generator=_generator, dtype=torch.float64)

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class Data(DataModule):
    def __init__(self, num_samples: int = N, **options: Any) -> None:
        super().__init__(**options)
        self.size = num_samples

    def load(self) -> Splits:
        return Splits(train=(X[: self.size], Y[: self.size]), val=(X[:23], Y[:23]), test=(X[:31], Y[:31]))


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1)).double()


class Net(L.LightningModule):
    """Mean squared error, SGD with momentum, a rate that falls with every step."""

    def __init__(self, dropout: float = 0.0, optimizer: str = "sgd", record: Path | None = None) -> None:
        super().__init__()
        self.record = record  # where to leave what was seen, for a training in other processes
        self.net, self.optimizer_name = network(dropout), optimizer
        self.step_losses: list[float] = []
        self.logged: list[float] = []
        self.epoch_means: list[float] = []
        self.val_losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.step_losses.append(float(outputs["loss"]))
        self.logged.append(float(self.trainer.callback_metrics["loss_step"]))

    def on_train_epoch_end(self) -> None:
        if "loss_epoch" in self.trainer.callback_metrics:  # not where a resume left no step of the epoch
            self.epoch_means.append(float(self.trainer.callback_metrics["loss_epoch"]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", nn.functional.mse_loss(self.net(x), y))

    def on_validation_epoch_end(self) -> None:
        self.val_losses.append(float(self.trainer.callback_metrics["val/loss"]))

    def on_train_end(self) -> None:
        if self.record and self.trainer.is_global_zero:
            run = self.trainer
            assert isinstance(run, Trainer)
            assert run.plan is not None
            seen = {
                "step_losses": self.step_losses, "logged": self.logged, "epoch_means": self.epoch_means,
                "val_losses": self.val_losses, "weights": weights(self), "steps": run.global_step,
                "counters": run.counters.state_dict(), "plan": run.plan.as_dict(),
            }  # fmt: skip
            torch.save(seen, self.record)

    def configure_optimizers(self) -> Any:
        if self.optimizer_name == "lbfgs":
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def trainer(**flags: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "seed": SEED,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return Trainer(**quiet | flags)


def fit(
    *,
    model: L.LightningModule | None = None,
    data: L.LightningDataModule | None = None,
    checkpoint: str | None = None,
    **flags: Any,
) -> tuple[Any, Any]:
    """Train for 4 epochs, unless told otherwise; returns the trained module and its Trainer (typed loosely)."""
    model, data = model or Net(), data or Data(batch_size=32)
    flags = {"max_epochs": 4, **flags}
    run = trainer(**flags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return model, run


def plain_loop(
    batch_size: int = 32, epochs: int = 4, num_samples: int = N, clip: float | None = None
) -> tuple[Tensor, list[float]]:
    """The same training without Lightning: the weights it ends with, and the loss of every step."""
    net, losses = network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in range(epochs):
        order = torch.from_numpy(epoch_order(SEED, epoch, num_samples))
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(net(X[batch]), Y[batch])
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return weights(net), losses


def lbfgs() -> nn.Module:
    """Four steps of L-BFGS without Lightning, each with the whole data set: the network as it ends."""
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(X), Y)
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return net
