"""A checkpoint every so many seconds: all devices write it after the same step, whatever their clocks say."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from jobs import Data, fit
from lightning.pytorch.callbacks import ModelCheckpoint

from metronome.training.checkpoints.callback import Checkpoint


class Clock(L.Callback):
    """The second device's goes five times as fast; each tick is a step."""

    def __init__(self) -> None:
        self.ticks = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        speed = 5 if trainer.global_rank else 1
        time.monotonic = lambda: speed * float(self.ticks)  # this process ends with the fit

    def on_train_batch_start(self, *_: Any) -> None:
        self.ticks += 1


@pytest.mark.parametrize("kind", [ModelCheckpoint, Checkpoint])
def test_after_the_same_step(kind: type[ModelCheckpoint], tmp_path: Path) -> None:
    class Saves(kind):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            with open(tmp_path / f"{trainer.global_rank}", "a") as file:
                file.write(f"{trainer.global_step} ")
            super()._save_checkpoint(trainer, filepath)

    saves = Saves(dirpath=tmp_path / "saved", train_time_interval=timedelta(seconds=3), save_top_k=-1)
    fit(
        data=Data(batch_size=32), devices=2, strategy="ddp_fork", max_epochs=2, enable_checkpointing=True,
        callbacks=[Clock(), saves],
    )  # fmt: skip
    steps = [(tmp_path / str(rank)).read_text().split() for rank in (0, 1)]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 3
