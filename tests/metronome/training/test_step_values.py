"""A torchmetric that is no mean over samples: at each step its value is that of the whole batch, however it is cut."""

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Data as JobsData
from jobs import fit
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric, MeanSquaredError, Metric, MetricCollection, PearsonCorrCoef, SumMetric
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryF1Score
from torchmetrics.wrappers import MinMaxMetric

from metronome.data import Splits
from metronome.training import Trainer
from metronome.training.batches.seeds import epoch_order

N, BATCH = 97, 32  # the last batch has one sample, and leaves all but one device without
SCORES = torch.rand(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.randint(2, (N,), generator=torch.Generator().manual_seed(1))
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}

METRICS: dict[str, Callable[[], Metric]] = {
    "sums": BinaryF1Score, "lists": BinaryAUROC, "root": lambda: MeanSquaredError(squared=False),
    "composed": lambda: BinaryF1Score() + BinaryAUROC(), "moments": PearsonCorrCoef,
}  # fmt: skip


class Data(JobsData):
    def load(self) -> Splits:
        return Splits(train=(SCORES, LABELS), val=(SCORES, LABELS))


class Module(L.LightningModule):
    """Logs metrics in each step of training and validation; leaves what it read at the end of each."""

    def __init__(self, record: Path | None = None) -> None:
        super().__init__()
        self.metrics = torch.nn.ModuleDict({name: make() for name, make in METRICS.items()})
        self.validated = MetricCollection({"val/f1": BinaryF1Score(), "val/auroc": BinaryAUROC()})
        self.layer, self.record = torch.nn.Linear(1, 1), record
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        for name, metric in self.metrics.items():
            scores = x if name != "moments" else x + 0 * self.layer(x[:, None].float())[:, 0]  # with a graph
            metric(scores, y.to(x) if name in ("root", "moments") else y)
            self.log(name, metric, on_step=True, on_epoch=True)  # pyright: ignore
        return self.layer(x[:, None].float()).mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append({name: float(self.trainer.callback_metrics[f"{name}_step"]) for name in METRICS})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated(*batch)
        self.log_dict(self.validated, on_step=True, on_epoch=True)

    def on_validation_batch_end(self, *_: Any) -> None:
        results: Any = self.trainer._results  # pyright: ignore
        values = results.metrics(on_step=True)["log"]
        self.seen.append({name: float(values[f"{name}_step"]) for name in ("val/f1", "val/auroc")})

    def on_train_end(self) -> None:
        if self.record is not None:
            torch.save(self.seen, f"{self.record}.{self.trainer.global_rank}")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def expected() -> list[dict[str, float]]:
    """Of each batch, as a metric gives it that has seen nothing else."""
    found: list[dict[str, float]] = []
    order = torch.from_numpy(epoch_order(7, 0, N))
    for batch in order.split(BATCH):
        values = {name: make() for name, make in METRICS.items()}
        for name, metric in values.items():
            metric.update(SCORES[batch], LABELS[batch].to(SCORES) if name in ("root", "moments") else LABELS[batch])
        found.append({name: float(metric.compute()) for name, metric in values.items()})
    for x, y in zip(SCORES.split(BATCH), LABELS.split(BATCH), strict=True):
        both = {"val/f1": BinaryF1Score(), "val/auroc": BinaryAUROC()}
        for metric in both.values():
            metric.update(x, y)
        found.append({name: float(metric.compute()) for name, metric in both.items()})
    return found


@pytest.mark.parametrize(("devices", "accumulation"), [(1, 1), (1, 3), (2, 1), (3, 3)])
@pytest.mark.filterwarnings("ignore")
def test_of_the_whole_batch(devices: int, accumulation: int, tmp_path: Path) -> None:
    several = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    data = Data(batch_size=BATCH)
    fit(model=Module(tmp_path / "seen"), data=data, accumulate_grad_batches=accumulation, max_epochs=1, **several)
    for rank in range(devices):
        for found, wanted in zip(torch.load(f"{tmp_path / 'seen'}.{rank}"), expected(), strict=True):
            assert found == pytest.approx(wanted, rel=1e-5, nan_ok=True)


class Logs(L.LightningModule):
    def __init__(self, metric: Metric, log: str) -> None:
        super().__init__()
        self.metric, self.kind, self.layer, self.seen = metric, log, torch.nn.Linear(1, 1), list[float]()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        value = self.metric(x, y) if not isinstance(self.metric, SumMetric | MeanMetric) else self.metric(x.mean())
        self.log("metric", self.metric if self.kind == "metric" else value, on_step=True, on_epoch=True)
        self.log("x", x.mean())
        return self.layer(x[:, None].float()).mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(float(self.trainer.callback_metrics["metric_step"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(module: L.LightningModule, accumulation: int) -> None:
    loader = DataLoader(TensorDataset(SCORES, LABELS), batch_size=10, drop_last=True)
    Trainer(accumulate_grad_batches=accumulation, enable_checkpointing=False, max_epochs=2, **QUIET).fit(module, loader)


@pytest.mark.parametrize(
    ("metric", "kind", "accumulation", "lines"),
    [
        (BinaryF1Score, "number", 2, 1),
        (BinaryF1Score, "number", 1, 0),
        (BinaryF1Score, "metric", 2, 0),
        (MeanSquaredError, "number", 2, 0),
        (BinaryAccuracy, "number", 2, 0),
    ],
)
def test_a_number_is_said_to_be_a_mean(
    metric: type[Metric], kind: str, accumulation: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "metronome.training"):
        train(Logs(metric(), kind), accumulation)
    said = [record.getMessage() for record in caplog.records]
    assert sum("'metric' is logged as the number that a BinaryF1Score has given" in line for line in said) == lines
    assert len(said) == lines


class ByHand(Logs):
    """Numbers that a metric has given in other ways; and one metric under two names."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        if self.kind == "computed":
            self.metric.update(x, y)
            self.log("metric", self.metric.compute(), on_step=True, on_epoch=True)
        elif self.kind == "dict":
            self.log("metric", self.metric(x, y)["raw"], on_step=True, on_epoch=True)
        else:
            self.metric(x, y)
            self.log("metric", self.metric, on_step=True, on_epoch=True)
            self.log("z", self.metric, on_step=True, on_epoch=False)
        return self.layer(x[:, None].float()).mean()


@pytest.mark.parametrize(("metric", "kind"), [(BinaryF1Score(), "computed"), (MinMaxMetric(BinaryF1Score()), "dict")])
def test_numbers_given_otherwise_are_said_to_be_means(
    metric: Metric, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "metronome.training"):
        train(ByHand(metric, kind), 2)
    assert f"'metric' is logged as the number that a {type(metric).__name__} has given" in caplog.text


def test_one_metric_under_two_names() -> None:
    values = []
    for k in (1, 2):
        seen: list[float] = []

        class Twice(ByHand):
            def on_train_batch_end(self, *_: Any) -> None:
                both = [float(self.trainer.callback_metrics[name]) for name in ("metric_step", "z")]
                assert both[0] == both[1]
                seen.extend(both)  # noqa: B023

        train(Twice(BinaryF1Score(), "twice"), k)
        values.append(seen)
    assert values[0] == values[1]
    assert values[0]


def test_a_mean_of_losses_weighs_micro_batches_by_their_samples() -> None:
    module = Logs(MeanMetric(), "metric")
    train(module, accumulation=3)  # 4, 3 and 3 samples
    assert module.seen[:9] == pytest.approx([float(x.mean()) for x in SCORES[:90].split(10)], rel=1e-6)


def test_nothing_is_left_on_the_module(tmp_path: Path) -> None:
    class Copies(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            copy.deepcopy(pl_module.metric)
            pickle.dumps(pl_module.metric)

    module = Logs(BinaryF1Score(), "metric")
    fit(model=module, data=Data(batch_size=BATCH), accumulate_grad_batches=2, max_epochs=1, callbacks=[Copies()])
    assert not module.metric._forward_hooks
