"""A run with Lightning's StochasticWeightAveraging, resumed from any of its checkpoints, ends with the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Net, fit
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, StochasticWeightAveraging
from torch import nn

from metronome.units import InputError

EPOCHS, START = 5, 3  # 5 steps in each; averaged from the start of the third on


class Scheduled(Net):
    def __init__(self, schedule: str, batch_norm: bool) -> None:
        super().__init__()
        self.schedule = schedule
        if batch_norm:
            self.net.insert(1, nn.BatchNorm1d(16).double())  # pyright: ignore

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if self.schedule == "none":
            return optimizer
        made = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": made, "interval": self.schedule}}


def run(schedule: str, batch_norm: bool, callbacks: list[Callback], checkpoint: Path | None = None) -> Any:
    # Two epochs to anneal in, so that a rate that is one epoch behind shows.
    swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=START, annealing_epochs=2)
    model, _ = fit(
        model=Scheduled(schedule, batch_norm), callbacks=[swa, *callbacks], max_epochs=EPOCHS,
        enable_checkpointing=True, checkpoint=None if checkpoint is None else str(checkpoint),
    )  # fmt: skip
    return model.state_dict()


@pytest.mark.parametrize("batch_norm", [False, True], ids=["", "BatchNorm"])
@pytest.mark.parametrize(
    "schedule", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "epoch")), "step"]
)
def test_every_checkpoint(schedule: str, batch_norm: bool, tmp_path: Path) -> None:
    saves: list[Callback] = [
        ModelCheckpoint(tmp_path, "{step}-step", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(tmp_path, "{step}-epoch", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
    ]
    whole = run(schedule, batch_norm, saves)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) >= EPOCHS * 5 + EPOCHS
    none = ModelCheckpoint(tmp_path / "none", save_top_k=0)  # or Lightning adds one of its own
    for path in paths:
        again = run(schedule, batch_norm, [none], path)
        assert all(torch.equal(value, whole[name]) for name, value in again.items()), path.name


def test_the_pass_for_batch_norm_is_refused(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == EPOCHS:  # one epoch more than asked for
                trainer.save_checkpoint(tmp_path / "last pass.ckpt")

    run("none", True, [Save()])
    with pytest.raises(InputError, match="at its last pass, in which BatchNorm gets new means"):
        run("none", True, [], tmp_path / "last pass.ckpt")


def test_without_the_callback_it_is_refused(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    run("none", False, [save])
    with pytest.raises(InputError, match="it has the states of 1 schedulers, and this training 0"):
        fit(model=Scheduled("none", False), max_epochs=EPOCHS, checkpoint=str(tmp_path / "step=15.ckpt"))
