"""A torchmetric that is no mean over samples: its step value with micro-batches is said not to be the batch's."""

import logging
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import BinaryF1Score

from metronome.training import Trainer

SCORES, LABELS = torch.rand(24, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 2


class Module(L.LightningModule):
    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric, self.layer, self.seen = metric, torch.nn.Linear(1, 1), list[float]()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        self.metric(x, y)
        self.log("metric", self.metric, on_step=True, on_epoch=True)
        return self.layer(x[:, None]).mean()

    def on_train_epoch_end(self) -> None:
        self.seen.append(float(self.trainer.callback_metrics["metric_epoch"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("metric", "accumulation", "lines"), [(BinaryF1Score, 2, 1), (BinaryF1Score, 1, 0), (MeanSquaredError, 2, 0)]
)
def test_said_once(metric: type[Metric], accumulation: int, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    module = Module(metric())
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "max_epochs": 2}
    loader = DataLoader(TensorDataset(SCORES, LABELS), batch_size=8)
    with caplog.at_level(logging.WARNING, "metronome.training"):
        Trainer(accumulate_grad_batches=accumulation, enable_checkpointing=False, **quiet).fit(module, loader)
    said = [record.getMessage() for record in caplog.records]
    assert sum("are means of its values in the micro-batches" in line for line in said) == lines
    whole = metric()
    whole.update(SCORES, LABELS)
    assert module.seen == pytest.approx([float(whole.compute())] * 2)
