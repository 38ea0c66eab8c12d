"""Going on from checkpoints: of Lightning's own Trainer, of the same Trainer, in mid-epoch and at an epoch's end."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from stock import CLASSES, FEATURES, Net, case, loader, network, train
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.classification import MulticlassAccuracy


class Scheduled(Net):
    """With momentum, a rate by steps, and a metric over the epoch."""

    def __init__(self, net: Any = None) -> None:
        super().__init__(net)
        self.metric = MulticlassAccuracy(CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        self.metric(outputs, batch[1])
        self.log("metric", self.metric, on_step=False, on_epoch=True)
        loss = self.loss(outputs, batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": OneCycleLR(optimizer, 0.2, total_steps=12), "interval": "step"}]


def whole(Trainer: Any, flags: dict[str, Any], module: Any = Scheduled, data: Any = loader, **own: Any) -> Any:
    """The training that is never interrupted."""
    found = train(Trainer, module(), data(), flags, **{"max_epochs": 3, **own})
    return {name: found[name] for name in ("weights", "logged", "steps")}


def resumed(
    Trainer: Any, flags: dict[str, Any], *, step: int, first: Any = None, module: Any = Scheduled, data: Any = loader,
    **own: Any,
) -> Any:  # fmt: skip
    """The same, in two parts: `first` trains with checkpoints, and `Trainer` goes on from that of a step."""
    callbacks = own.pop("callbacks", list)
    saves = ModelCheckpoint("saved", "{step}", every_n_train_steps=1, save_top_k=-1)
    on = {"max_epochs": 3, "enable_checkpointing": True}
    train(
        first or Trainer, module(), data(), flags if first is None else {}, callbacks=[saves, *callbacks()], **on | own
    )
    return whole(Trainer, flags, module, data, callbacks=callbacks(), ckpt_path=f"saved/step={step}.ckpt", **own)


def at_an_end(Trainer: Any, flags: dict[str, Any], **own: Any) -> Any:
    """The same, from a checkpoint that was written at the end of the first epoch."""
    first = own.pop("first", None)
    saves = ModelCheckpoint("saved", "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    on = {"max_epochs": 3, "enable_checkpointing": True}
    train(first or Trainer, Scheduled(), loader(), {} if first else flags, callbacks=[saves], **on)
    return whole(Trainer, flags, ckpt_path="saved/epoch=0.ckpt", **own)


@case("from a stock checkpoint at the end of an epoch", quick=True)
def stock_end(Trainer: Any, **flags: Any) -> Any:
    return at_an_end(Trainer, flags, first=L.Trainer)


@case("from a stock checkpoint in mid-epoch", right=lambda Trainer, **flags: whole(Trainer, flags),
      why="it begins the epoch's samples anew")  # fmt: skip
def stock_mid_epoch(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=6, first=L.Trainer)


@case("from a stock checkpoint in mid-epoch, shuffled", cut=False)
def stock_mid_epoch_shuffled(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=6, first=L.Trainer, data=lambda: loader(shuffle=True))


@case("from its own checkpoint at the end of an epoch")
def own_end(Trainer: Any, **flags: Any) -> Any:
    return at_an_end(Trainer, flags)


@case("in mid-epoch: means and metrics of the epoch", right=lambda Trainer, **flags: whole(Trainer, flags),
      why="it begins the epoch's samples anew")  # fmt: skip
def own_mid_epoch(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=6)


@case("in mid-epoch, shuffled", right=lambda Trainer, **flags: whole(Trainer, flags, data=_shuffled),
      why="it reads other samples than were left")  # fmt: skip
def shuffled(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=6, data=_shuffled)


def _shuffled(**options: Any) -> Any:
    return loader(shuffle=True, **options)


def _shuffled_by_workers() -> Any:
    return loader(shuffle=True, num_workers=2)


@case("in mid-epoch, shuffled, two workers", right=lambda Trainer, **flags: whole(Trainer, flags,
      data=_shuffled_by_workers), why="it reads other samples than were left", cut=False)  # fmt: skip
def shuffled_by_workers(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=6, data=_shuffled_by_workers)


def _drops() -> Any:
    return Scheduled(
        network(nn.Linear(FEATURES, 8), nn.Dropout(), nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, CLASSES))
    )


@case("after the last step of an epoch, dropout", right=lambda Trainer, **flags: whole(Trainer, flags, _drops),
      why="it draws other numbers", cut=False)  # fmt: skip
def dropout(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=4, module=_drops)


@case("in mid-epoch, EMAWeightAveraging", right=lambda Trainer, **flags: whole(Trainer, flags, callbacks=_ema()),
      why="it begins the epoch's samples anew")  # fmt: skip
def ema(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=6, callbacks=_ema)


def _ema() -> list[Any]:
    return [EMAWeightAveraging(decay=0.8)]


class Plain(Scheduled):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def _swa() -> list[Any]:
    return [StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)]


@case("in mid-epoch, StochasticWeightAveraging", right=lambda Trainer, **flags: whole(Trainer, flags, Plain,
      callbacks=_swa(), max_epochs=5), why="it begins the epoch's samples anew")  # fmt: skip
def swa(Trainer: Any, **flags: Any) -> Any:
    return resumed(Trainer, flags, step=10, module=Plain, callbacks=_swa, max_epochs=5)


@case("a finished training goes on for longer")
def longer(Trainer: Any, **flags: Any) -> Any:
    own = {"enable_checkpointing": True, "callbacks": [ModelCheckpoint("saved", save_last=True)]}
    train(Trainer, Plain(), loader(), flags, **own)
    return whole(Trainer, flags, Plain, ckpt_path="saved/last.ckpt", max_epochs=4)


@case("the weights alone, by load_from_checkpoint, into another training")
def weights_alone(Trainer: Any, **flags: Any) -> Any:
    saves = ModelCheckpoint("saved", "first", save_weights_only=True)
    train(Trainer, Plain(), loader(), flags, enable_checkpointing=True, callbacks=[saves])
    module = Plain.load_from_checkpoint("saved/first.ckpt", weights_only=False)
    return train(Trainer, module, loader(9), flags)
