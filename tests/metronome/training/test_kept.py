"""What was logged in an epoch before a checkpoint counts in the epoch's values after it, on any layout."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Data, Net, fit
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torchmetrics import CatMetric, MaxMetric, MeanMetric, MetricCollection
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError
from torchmetrics.wrappers import MinMaxMetric


class Logs(Net):
    """Logs in every way there is; leaves the values of each epoch in a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.values = file, {}
        self.mean, self.largest, self.seen = MeanMetric(), MaxMetric(), CatMetric()
        self.extremes = MinMaxMetric(MeanMetric())  # keeps tensors that are no states, over all epochs
        self.collection = MetricCollection([MeanSquaredError(), MeanAbsoluteError()])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        outputs = self.net(x)
        loss = nn.functional.mse_loss(outputs, y)
        for reduce_fx in ("mean", "sum", "min", "max"):
            self.log(reduce_fx, y.mean() if reduce_fx == "mean" else getattr(y, reduce_fx)(), reduce_fx=reduce_fx)
        self.log("both", loss, on_step=True, on_epoch=True)
        if batch_idx == 0:
            self.log("first", loss, on_step=False, on_epoch=True)
        self.mean(y)
        self.largest(y)
        self.seen(y[:, 0])
        self.extremes.update(y)
        self.collection(outputs, y)
        self.log("metric/mean", self.mean, on_step=False, on_epoch=True)
        self.log("metric/largest", self.largest, on_step=False, on_epoch=True)
        self.log_dict(self.collection, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...

    def on_train_epoch_end(self) -> None:
        values = {name: float(value) for name, value in self.trainer.callback_metrics.items() if name != "both_step"}
        values["seen"] = float(self.seen.compute().sum())
        self.seen.reset()
        values |= {f"extremes/{name}": float(value) for name, value in self.extremes.compute().items()}
        self.values[self.trainer.current_epoch] = values
        if self.trainer.is_global_zero:
            self.file.write_text(json.dumps(self.values))


def run(file: Path, saves: Path | None = None, **flags: Any) -> dict[str, dict[str, float]]:
    save = ModelCheckpoint(saves, "{step}", every_n_train_steps=1, save_top_k=-1) if saves else None
    fit(
        model=Logs(file), data=Data(batch_size=32), max_epochs=3, callbacks=[save] if save else [],
        enable_checkpointing=bool(save), **flags,
    )  # fmt: skip
    return json.loads(file.read_text())


TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}


@pytest.mark.parametrize("before", [{}, TWO], ids=["from one", "from two"])
@pytest.mark.parametrize("after", [{}, {"accumulate_grad_batches": 3}, TWO], ids=["to one", "to one cut", "to two"])
def test_in_mid_epoch(before: dict[str, Any], after: dict[str, Any], tmp_path: Path) -> None:
    """5 steps an epoch; from step 7, in the second epoch, whose values cover its steps 1 and 2 too."""
    whole = run(tmp_path / "whole", tmp_path / "saves", **before)
    again = run(tmp_path / "again", checkpoint=str(tmp_path / "saves/step=7.ckpt"), **after)
    assert set(again) == {"1", "2"}
    for epoch, values in again.items():
        assert set(values) == set(whole[epoch])
        for name, value in values.items():
            # In the same layout bit for bit.
            assert value == (whole[epoch][name] if before == after else pytest.approx(whole[epoch][name], rel=1e-5)), (
                name
            )


def test_every_step_of_an_epoch(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", tmp_path / "saves")
    for step in range(1, 15):
        again = run(tmp_path / "again", checkpoint=str(tmp_path / f"saves/step={step}.ckpt"))
        assert again == {epoch: whole[epoch] for epoch in again}, step


def test_early_stopping_stays_stopped(tmp_path: Path) -> None:
    """A run that early stopping has ended does not go on because it was saved before its end."""
    from lightning.pytorch.callbacks import EarlyStopping

    def stopping() -> EarlyStopping:
        return EarlyStopping("val/loss", patience=1, mode="max")

    save = ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    _, whole = fit(callbacks=[stopping(), save], enable_checkpointing=True, max_epochs=10)
    assert whole.global_step < 50
    last = tmp_path / f"step={whole.global_step}.ckpt"
    assert torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_loop.state_dict"]["should_stop"]
    _, again = fit(callbacks=[stopping()], max_epochs=10, checkpoint=str(last))
    assert again.global_step == whole.global_step


def test_plateau_by_epoch(tmp_path: Path) -> None:
    """A scheduler that waits for the validation of an epoch is stepped on a resume too; Lightning leaves it out."""

    class Plateau(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}

    saves = [
        ModelCheckpoint(tmp_path, "{step}-step", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(tmp_path, "{step}-val", monitor="val/loss", save_top_k=-1, save_on_train_epoch_end=False),
        ModelCheckpoint(tmp_path, "{step}-epoch", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
    ]
    whole, run = fit(model=Plateau(), callbacks=saves, enable_checkpointing=True)
    rate = run.optimizers[0].param_groups[0]["lr"]
    assert rate < 0.1
    for path in sorted(tmp_path.glob("*.ckpt")):
        again, rerun = fit(model=Plateau(), checkpoint=str(path))
        assert rerun.optimizers[0].param_groups[0]["lr"] == rate, path.name
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True)), path.name
