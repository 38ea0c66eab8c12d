"""A batch of an evaluation is of the same samples on every layout: devices and accumulation only cut it up."""

from math import ceil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import X, Y, fit, network, trainer, weights
from torch import Tensor, distributed, nn
from torchmetrics import MeanMetric

from metronome.data import DataModule, Splits

BATCH, VALIDATED = 32, 97  # 32 + 32 + 32 + 1: the last leaves all but one device without a sample
LAYOUTS = [(1, 1), (1, 3), (1, 16), (2, 1), (2, 3), (3, 2)]


class Data(DataModule):
    def load(self) -> Splits:
        return Splits(train=(X, Y), val=(X[:VALIDATED], Y[:VALIDATED]), test=(X[:VALIDATED], Y[:VALIDATED]))


class Validates(L.LightningModule):
    """Logs each batch's loss, and goes by it: a plateau scheduler. The devices meet in every step."""

    def __init__(self, record: Path | None = None, most: int = BATCH) -> None:
        super().__init__()
        self.net, self.record, self.most = network(), record, most
        self.seen = MeanMetric(dist_sync_on_step=True)
        self.steps: list[float] = []
        self.means: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert len(batch[0]) <= self.most
        if distributed.is_initialized():
            distributed.all_reduce(torch.ones(1))
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.seen.update(loss, len(batch[0]))
        self.log("val/loss", loss, on_step=True, on_epoch=True)
        self.log("val/seen", self.seen)

    test_step = validation_step

    def on_validation_batch_end(self, *_: Any) -> None:
        results: Any = self.trainer._results  # pyright: ignore
        self.steps.append(float(results.metrics(on_step=True)["log"]["val/loss_step"]))

    def on_validation_epoch_end(self) -> None:
        self.means.append(float(self.trainer.callback_metrics["val/loss_epoch"]))
        assert float(self.trainer.callback_metrics["val/seen"]) == pytest.approx(self.means[-1], rel=1e-6)

    def on_train_end(self) -> None:
        if self.record is not None:
            torch.save((weights(self), self.steps, self.means), f"{self.record}.{self.trainer.global_rank}")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.3)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss_epoch"}}


def plain_loop(batches: int, size: int) -> tuple[Tensor, list[float], list[float]]:
    """Three epochs of a whole batch each, and a validation of the first batches after each."""
    net, steps, means = network(), [], []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X), Y).backward()
        optimizer.step()
        total, seen = 0.0, 0
        for x, y in list(zip(X[:VALIDATED].split(size), Y[:VALIDATED].split(size), strict=True))[:batches]:
            with torch.no_grad():
                steps.append(nn.functional.mse_loss(net(x), y).item())
            total, seen = total + steps[-1] * len(x), seen + len(x)
        means.append(total / seen)
        plateau.step(means[-1])
    return weights(net), steps, means


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize(("devices", "accumulation"), LAYOUTS)
def test_the_same_samples_on_every_layout(devices: int, accumulation: int, batches: int, tmp_path: Path) -> None:
    most = ceil(ceil(BATCH / devices) / accumulation)
    several = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    most_in_training = ceil(ceil(len(X) / devices) / accumulation)
    fit(
        model=Validates(tmp_path / "seen", max(most, min(most_in_training, ceil(BATCH / devices)))),
        data=Data(batch_size="full", eval_batch_size=BATCH), accumulate_grad_batches=accumulation, max_epochs=3,
        limit_val_batches=batches, **several,
    )  # fmt: skip
    expected = plain_loop(batches, BATCH)
    for rank in range(devices):
        for found, wanted in zip(torch.load(f"{tmp_path / 'seen'}.{rank}"), expected, strict=True):
            torch.testing.assert_close(
                torch.as_tensor(found), torch.as_tensor(wanted), rtol=1e-12, atol=1e-14, check_dtype=False
            )


@pytest.mark.parametrize(("devices", "accumulation"), LAYOUTS)
def test_what_fits_in_training_fits_there(devices: int, accumulation: int) -> None:
    """Nothing said of it, its batch is that of training, in pieces of a micro-batch: here of one device of several."""
    most = ceil(ceil(BATCH / devices) / accumulation)
    several = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    model = Validates(most=most)
    fit(model=model, data=Data(batch_size=BATCH), accumulate_grad_batches=accumulation, max_epochs=1, **several)


@pytest.mark.parametrize(
    ("batch_size", "eval_batch_size", "accumulation", "sizes"),
    [
        (32, None, 4, [8] * 12 + [1]),
        (32, 8, 4, [8] * 12 + [1]),  # a micro-batch fits as it is
        (32, 97, 1, [97]),  # as asked for, since nothing is cut
        (32, 96, 4, [24] * 4 + [1]),
        ("full", None, 2, [49, 48]),
    ],
)
def test_pieces(batch_size: Any, eval_batch_size: int | None, accumulation: int, sizes: list[int]) -> None:
    model, found = Validates(), []
    model.test_step = lambda batch, batch_idx: found.append(len(batch[0]))  # pyright: ignore
    run = trainer(accumulate_grad_batches=accumulation)
    run.test(model, datamodule=Data(batch_size=batch_size, eval_batch_size=eval_batch_size), verbose=False)
    assert found == sizes


class Returns(Validates):
    """Its loss is a mean over what `loss_weight` says; returns it, and looks at what comes of it."""

    def loss_weight(self, batch: Any) -> Tensor:
        return (batch[1] > 0).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        return {"loss": ((self.net(x) - y) ** 2)[y > 0].sum() / (y > 0).sum()}

    def on_validation_batch_end(self, outputs: Any, batch: Any, *_: Any) -> None:
        self.steps.append(float(outputs["loss"]))
        self.means.append(float(self.whole(batch)))

    def whole(self, batch: Any) -> Tensor:
        return Returns.validation_step(self, batch, 0)["loss"]

    def on_validation_epoch_end(self) -> None: ...


def test_scalars_that_a_step_returns_weigh_what_the_module_says() -> None:
    model = Returns()
    run = trainer(accumulate_grad_batches=3)
    run.validate(model, datamodule=Data(batch_size=BATCH), verbose=False)
    assert model.steps[0] == pytest.approx(model.means[0], rel=1e-12)
    assert model.steps == pytest.approx(model.means, rel=1e-12, nan_ok=True)
