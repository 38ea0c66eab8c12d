"""Whether less or more of what is monitored is better: as a torchmetric says it, then the name; a given mode counts."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MeanSquaredError, MetricCollection, R2Score
from torchmetrics.classification import BinaryAccuracy

from metronome.models.schedulers import Plateau
from metronome.training import Checkpoint, Trainer
from metronome.training.checkpoints.monitored import direction_in
from metronome.units import InputError


class Net(L.LightningModule):
    """After step n its validation says `values[n - 1]`, under a name and as a metric."""

    def __init__(self, name: str = "val/acc", metric: Any = None, values: tuple[float, ...] = (0.2, 0.9, 0.1)) -> None:
        super().__init__()
        self.name, self.values, self.layer, self.metric = name, values, nn.Linear(1, 1), metric

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        value = torch.tensor(self.values[max(self.trainer.global_step - 1, 0)])
        if self.metric is not None:
            self.metric.update(value[None], torch.zeros(1))
        self.log(self.name, value if self.metric is None else self.metric, batch_size=1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        if (make := getattr(self, "make", None)) is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), "interval": "step"}}


def fit(folder: Path, callback: Any, module: L.LightningModule, ckpt: str | None = None, **flags: Any) -> Any:
    loader = DataLoader(TensorDataset(torch.ones(2, 1)), batch_size=2)
    trainer: Any = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False, log_every_n_steps=1,
        enable_model_summary=False, callbacks=callback, **({"max_epochs": 3} | flags),
    )  # fmt: skip
    trainer.fit(module, loader, loader, ckpt_path=ckpt)
    return trainer


class Named(nn.Module):
    def __init__(self, **metrics: Any) -> None:
        super().__init__()
        for name, metric in metrics.items():
            setattr(self, name, metric)


@pytest.mark.parametrize(
    ("module", "name", "mode"),
    [
        (Named(), "val/acc", "max"),
        (Named(), "val/foo", None),
        (Named(val_foo=R2Score()), "val/foo", "max"),
        (Named(foo=MeanSquaredError()), "val/foo", "min"),
        (Named(test_foo=R2Score()), "val/foo", None),
        (Named(val_foo=MeanMetric()), "val/foo", None),  # a mean of what?
        (Named(val_score=MeanSquaredError()), "val/score", "min"),
        (Named(val_acc=MeanSquaredError()), "val/acc", "min"),  # it counts more than its name
        (Named(many=MetricCollection({"foo": R2Score()}, prefix="val/")), "val/foo", "max"),
        (Named(many=MetricCollection({"foo": R2Score()}, prefix="test/")), "val/foo", None),
        (Named(val_foo=R2Score(), foo=MeanSquaredError()), "val/foo", None),
    ],
)
def test_what_tells(module: nn.Module, name: str, mode: str | None) -> None:
    assert direction_in(module, name)[0] == mode


@pytest.mark.parametrize(
    ("name", "options", "metric", "best"),
    [
        ("val/acc", {}, None, 2),
        ("val/loss", {}, None, 3),
        ("val/acc", {"mode": "min"}, None, 3),
        ("val/foo", {"mode": "max"}, None, 2),
    ],
)
def test_the_best_is_kept(name: str, options: dict[str, str], metric: Any, best: int, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "best", monitor=name, **options)  # pyright: ignore
    fit(tmp_path, checkpoint, Net(name, metric))
    assert torch.load(checkpoint.best_model_path, weights_only=True)["global_step"] == best


def test_what_tells_nothing_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="monitor=val/foo: whether lower or higher is better cannot be told from its"):
        fit(tmp_path, Checkpoint(tmp_path, monitor="val/foo"), Net("val/foo"))


@pytest.mark.parametrize(
    ("callback", "lines"),
    [
        (ModelCheckpoint(monitor="val/acc"), 1),
        (ModelCheckpoint(monitor="val/acc", mode="max"), 0),
        (EarlyStopping("val/acc"), 1),
        (Checkpoint(monitor="val/acc", mode="min"), 1),
        (Checkpoint(monitor="val/acc"), 0),
    ],
)
def test_a_mode_that_is_not_the_metrics_is_told_once(
    callback: Any, lines: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, callback, Net(), max_epochs=2)
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told.count("mode=min counts for val/acc, of which more is better by its name") == lines


def test_what_is_logged_knows_better_than_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An accuracy that is called an error."""
    module = Net("val/error", BinaryAccuracy())
    with pytest.raises(InputError) as error:
        fit(tmp_path, Checkpoint(tmp_path, monitor="val/error"), module)
    assert str(error.value) == (
        "monitor=val/error: it is logged as BinaryAccuracy, of which more is better, and its name says less; add "
        "mode=min or mode=max"
    )
    assert not list(tmp_path.glob("*.ckpt"))
    fit(tmp_path, Checkpoint(tmp_path, monitor="val/error", mode="min"), module, max_epochs=1)
    assert "mode=min counts for val/error, of which more is better by BinaryAccuracy" in caplog.messages


def test_a_name_that_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"monitor=val/accuracy is not logged; there is: val/acc$"):
        fit(tmp_path, Checkpoint(tmp_path, monitor="val/accuracy"), Net())
    assert "monitor=val/accuracy is not among what the validation logs: val/acc" in caplog.messages


@pytest.mark.parametrize(
    ("name", "mode", "rate"),
    # 0.2, 0.9, 0.1: better at the second, and not at the third; or the other way round.
    [("val/acc", None, 0.005), ("val/loss", None, 0.005), ("val/acc", "max", 0.005), ("val/foo", "min", 0.005)],
)
def test_plateau(name: str, mode: str | None, rate: float, tmp_path: Path) -> None:
    module: Any = Net(name)
    module.make = lambda optimizer: Plateau(optimizer, monitor=name, mode=mode, patience="1 steps", factor=0.5)
    trainer = fit(tmp_path, [], module, enable_checkpointing=False)
    best = 0.9 if (mode or ("max" if name == "val/acc" else "min")) == "max" else 0.1
    assert trainer.lr_scheduler_configs[0].scheduler.best == pytest.approx(best)
    assert trainer.optimizers[0].param_groups[0]["lr"] == rate


def test_plateau_of_what_tells_nothing(tmp_path: Path) -> None:
    module: Any = Net("val/foo")
    module.make = lambda optimizer: Plateau(optimizer, monitor="val/foo", patience="1 steps")
    with pytest.raises(InputError, match=r"add scheduler.mode=min or scheduler.mode=max"):
        fit(tmp_path, [], module, enable_checkpointing=False)


@pytest.mark.parametrize(
    ("before", "after", "best", "told"),
    [
        ({"monitor": "val/acc"}, {"monitor": "val/acc"}, 2, None),
        # It kept the worst: no validation since was better than the one after step 3.
        ({"monitor": "val/acc", "mode": "min"}, {"monitor": "val/acc"}, 3, "highest val/acc, before by the lowest"),
        ({}, {"monitor": "val/acc"}, 3, "highest val/acc, before by no metric"),
    ],
)
def test_a_run_goes_on(
    before: dict[str, Any], after: dict[str, Any], best: int, told: str | None, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The best so far counts on, unless it was the best by another rule; the last is known either way."""
    options: dict[str, Any] = {"save_last": True, "enable_version_counter": False}
    fit(tmp_path, Checkpoint(tmp_path, "best", **before, **options), Net(), max_epochs=2)
    again = Checkpoint(tmp_path, "best", **after, **options)
    fit(tmp_path, again, Net(), ckpt=str(tmp_path / "last.ckpt"))
    assert torch.load(again.best_model_path, weights_only=True)["global_step"] == best
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    anew = [line for line in caplog.messages if line.startswith("the best counts anew: ")]
    assert len(anew) == (told is not None)
    assert all(str(told) in line for line in anew)
