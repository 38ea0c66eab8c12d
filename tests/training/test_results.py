"""What `self.log` gives: the value of the whole batch each step, of all samples each epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import SEED, Data, Net, X, Y, fit
from torch import Tensor
from torchmetrics import MeanMetric

from metronome.training.seeds import epoch_order

LAYOUTS = pytest.mark.parametrize(
    "layout",
    [
        {},
        {"accumulate_grad_batches": 5},
        {"devices": 2, "strategy": "ddp_fork"},
        {"devices": 2, "strategy": "ddp_fork", "accumulate_grad_batches": 3},
    ],
    ids=["whole", "cut in 5", "2 devices", "2 devices, cut in 3"],
)
NUM_SAMPLES = 33  # batches of 16, 16 and 1: of the last one the second device has no sample


class Logs(Net):
    """Logs facts about the batch that are easy to work out without a network."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.mean = folder, MeanMetric()
        self.steps: list[dict[str, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, _ = batch
        self.log("mean", x[:, 0].mean(), on_step=True, on_epoch=True)
        self.log("sum", x[:, 0].sum(), on_step=True, on_epoch=True, reduce_fx="sum")
        self.log("max", x[:, 0].max(), on_step=True, on_epoch=True, reduce_fx="max")
        self.log("min", x[:, 0].min(), on_step=True, on_epoch=True, reduce_fx="min")
        self.mean.update(x[:, 0])
        self.log("metric", self.mean, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        metrics = self.trainer.callback_metrics
        self.steps.append({name: float(metrics[f"{name}_step"]) for name in ("mean", "sum", "max", "min")})

    def on_train_end(self) -> None:
        names = ("mean_epoch", "sum_epoch", "max_epoch", "min_epoch", "metric")
        epoch = {name: float(self.trainer.callback_metrics[name]) for name in names}
        if self.trainer.is_global_zero:
            torch.save((self.steps, epoch), self.folder / "seen.pt")


@LAYOUTS
def test_reductions(layout: dict[str, Any], tmp_path: Path) -> None:
    fit(model=Logs(tmp_path), data=Data(NUM_SAMPLES, batch_size=16), max_epochs=1, **layout)
    steps, epoch = torch.load(tmp_path / "seen.pt")
    column = X[:NUM_SAMPLES, 0][torch.from_numpy(epoch_order(SEED, 0, NUM_SAMPLES))]
    for found, batch in zip(steps, column.split(16), strict=True):
        facts = {"mean": batch.mean(), "sum": batch.sum(), "max": batch.max(), "min": batch.min()}
        assert found == pytest.approx({name: value.item() for name, value in facts.items()}, rel=1e-6)
    expected = {
        "mean_epoch": column.mean(),
        "sum_epoch": column.sum(),
        "max_epoch": column.max(),
        "min_epoch": column.min(),
        "metric": column.mean(),
    }
    # MeanMetric sums in float32
    assert epoch == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-5)


@LAYOUTS
def test_the_loss_that_hooks_see_is_that_of_the_batch(layout: dict[str, Any], tmp_path: Path) -> None:
    """`outputs["loss"]`, which Lightning divides by the accumulation."""
    record = tmp_path / "seen.pt"
    fit(model=Net(record=record), data=Data(NUM_SAMPLES, batch_size=16), max_epochs=1, **layout)
    seen = torch.load(record)
    order = torch.from_numpy(epoch_order(SEED, 0, NUM_SAMPLES))
    net = Net().net
    first = torch.nn.functional.mse_loss(net(X[order[:16]]), Y[order[:16]]).item()
    assert seen["step_losses"][0] == pytest.approx(first, rel=1e-12)


def test_what_a_step_returns_beside_the_loss_is_of_the_whole_batch() -> None:
    class Returns(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "x": batch[0]}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert torch.equal(outputs["x"], batch[0])

    fit(model=Returns(), accumulate_grad_batches=3, max_epochs=1)


def test_a_value_logged_between_steps_is_left_alone() -> None:
    class Between(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.log("batch_idx", float(batch_idx), on_step=True, on_epoch=False)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert self.trainer.callback_metrics["batch_idx"] == batch_idx

    fit(model=Between(), accumulate_grad_batches=3, max_epochs=1)
