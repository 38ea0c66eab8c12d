"""All that the processes of a training say to each other in a step, that of DistributedDataParallel's C++ too: one
all-reduce of gradients, with all that watches a run by default, however its batches are cut."""

from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jobs import Data, fit, network
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from sent import Sent
from several import together
from torch import Tensor, nn

from metronome import insight
from metronome.training import Checkpoint
from metronome.training.guards import agreement

FIRST, LAST = 5, 9  # of the steps that are looked at: none begins or ends an epoch or is logged


class Counts(Callback):
    """From the end of a step to the end of another."""

    def __init__(self) -> None:
        self.begun = Sent()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == FIRST:
            self.begun.__enter__()
        elif trainer.global_step == LAST:
            self.begun.__exit__(None, None, None)
            trainer.should_stop = True


Counts.on_train_batch_end.__module__ = "metronome.test"  # or its hook could look at the loss


def watching(folder: Path) -> list[Callback]:
    """As conf/callbacks/default.yaml."""
    return [
        Checkpoint(folder, "best", save_last=True, save_last_every="10 min"),
        insight.LearningRate(), insight.PlanText(), insight.Progress(), insight.GradientNorm(), insight.UpdateRatio(),
        insight.Momentum(), insight.StepTime(), insight.SamplesAxis(), insight.HParams(), insight.Watched(),
    ]  # fmt: skip


class Silent(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def counted(folder: Path) -> list[dict[str, int]]:
    agreement._SECONDS = 1e9  # between what is exchanged about stops and saves
    found = []
    for accumulation in (1, 2, 4):
        counts = Counts()
        fit(
            model=Silent(), data=Data(batch_size=12), callbacks=[*watching(folder), counts], devices=2,
            strategy="ddp", accumulate_grad_batches=accumulation, max_epochs=-1, max_steps=10_000,
            logger=CSVLogger(folder), enable_checkpointing=True, enable_progress_bar=True, log_every_n_steps=50,
            limit_val_batches=0,
        )  # fmt: skip
        found.append(Counter(counts.begun.names))
    return found


def test_gradients_alone(tmp_path: Path) -> None:
    for each in together(2, tmp_path, counted, tmp_path):
        assert each == [{"allreduce_": LAST - FIRST}] * 3
