"""The rates in TensorBoard against those worked by hand, at the steps at which the metrics are."""

from typing import Any

import jobs
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from metronome.insight import LearningRate


def scalars(folder: Any, model: Any = None, **flags: Any) -> dict[str, dict[int, float]]:
    """Train and read back what TensorBoard shows: for each tag a value per step."""
    jobs.fit(model=model, logger=TensorBoardLogger(folder, "", ""), callbacks=[LearningRate()], **flags)
    events = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("every", "steps"), [(1, list(range(20))), (3, [2, 5, 8, 11, 14, 17]), (50, [])]
)  # 4 epochs of 5 steps, counted from 0 as Lightning does
def test_rate_of_each_logged_step(tmp_path, accumulate, every, steps):
    logged = scalars(tmp_path, log_every_n_steps=every, accumulate_grad_batches=accumulate)
    # LinearLR: from 0.1 down to 0.01 in 20 steps, so 0.0045 less with each.
    assert logged.get("lr", {}) == pytest.approx({step: 0.1 - 0.0045 * step for step in steps})
    assert list(logged.get("lr", {})) == list(logged.get("loss_step", {}))
    assert not any(tag.startswith("lr/") for tag in logged)


class Groups(jobs.Net):
    """Two parameter groups; `factors` gives the rates of both at a step."""

    def __init__(self, *factors: Any) -> None:
        super().__init__()
        self.factors = factors

    def configure_optimizers(self) -> Any:
        layers = [self.net[0], self.net[3]]  # pyright: ignore
        optimizer = torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, list(self.factors))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_groups(tmp_path):
    same = scalars(tmp_path / "same", Groups(*[lambda s: 0.01] * 2), max_steps=3, log_every_n_steps=1)
    assert same["lr"] == pytest.approx(dict.fromkeys(range(3), 0.01))
    assert "lr/0" not in same

    # 0 and 0, 0.01 and 0.03, 0.02 and 0.02: apart at step 1, and then numbered for good.
    parted = Groups(lambda s: 0.01 * s, lambda s: [0.0, 0.03, 0.02, 0.0][s])
    logged = scalars(tmp_path / "parted", parted, max_steps=3, log_every_n_steps=1)
    assert logged["lr"] == {0: 0.0}
    assert logged["lr/0"] == pytest.approx({1: 0.01, 2: 0.02})
    assert logged["lr/1"] == pytest.approx({1: 0.03, 2: 0.02})


class Manual(jobs.Net):
    """Two optimizers, stepped by the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x), y)
        self.log("loss", loss)
        self.manual_backward(loss)
        for optimizer in self.optimizers():  # pyright: ignore
            optimizer.step()
            optimizer.zero_grad()

    def on_train_batch_end(self, *_: Any) -> None:
        pass

    def configure_optimizers(self) -> Any:
        layers = [self.net[0], self.net[3]]  # pyright: ignore
        return [
            torch.optim.SGD(layers[0].parameters(), lr=0.25),
            torch.optim.Adam(layers[1].parameters(), lr=0.5),
        ]


def test_several_optimizers(tmp_path):
    logged = scalars(tmp_path, Manual(), max_epochs=1, log_every_n_steps=2)
    assert logged["lr/0"] == {1: 0.25, 3: 0.25}
    assert logged["lr/1"] == {1: 0.5, 3: 0.5}
    assert list(logged["loss"]) == [1, 3]


def test_without_loggers():
    jobs.fit(callbacks=[LearningRate()], max_steps=1, log_every_n_steps=1)
