"""All callbacks in a training on two devices: they do not hang it, and tell what one device would tell."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: forking one in which torch has already computed may hang.
CODE = """
import logging, sys
from typing import Any

import jobs
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from metronome.insight import LearningRate, PlanText, Progress

class Net(jobs.Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = jobs.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_epoch=True, prog_bar=True)
        return loss
    def on_train_batch_end(self, *_: Any) -> None: ...
    def on_train_epoch_end(self) -> None: ...
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", jobs.nn.functional.mse_loss(self.net(batch[0]), batch[1]), prog_bar=True)

class Foreign(Net):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(jobs.X[:32], jobs.Y[:32]), 8)

devices, model = int(sys.argv[1]), sys.argv[2]
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
run = jobs.trainer(
    callbacks=[Progress(0), LearningRate(), PlanText()], logger=TensorBoardLogger(sys.argv[3], "", ""),
    devices=devices, strategy="ddp_fork" if devices > 1 else "auto", enable_progress_bar=True,
    max_epochs=2, reload_dataloaders_every_n_epochs=1, log_every_n_steps=1, accumulate_grad_batches=2,
)
run.fit(Net() if model == "own" else Foreign(), datamodule=jobs.Data(batch_size=32) if model == "own" else None)
"""


def lines(devices: int, data: str, folder: Path) -> list[str]:
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(devices), data, str(folder)]
    here = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    return [re.sub(r"  [\d,.]+ samples/s$", "", line) for line in said]


@pytest.mark.slow
def test_two_devices_tell_the_same(tmp_path):
    one, two = (lines(devices, "own", tmp_path) for devices in (1, 2))
    assert one == two
    assert [line[:38] for line in two] == [
        "epoch 1/2  step  5/10  157 samples  tr",
        "epoch 2/2  step 10/10  314 samples  tr",
    ]
    assert all("train/loss_epoch" in line and "val/loss" in line for line in two)


@pytest.mark.slow
def test_foreign_loader_on_two_devices(tmp_path):
    assert [line[:36] for line in lines(2, "foreign", tmp_path)] == [
        "epoch 1/2  step 2/4  32 samples  tra",
        "epoch 2/2  step 4/4  64 samples  tra",
    ]
