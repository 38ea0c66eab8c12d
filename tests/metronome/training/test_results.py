"""What `self.log` gives: the value of the whole batch each step, of all samples each epoch."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import SEED, Data, Net, X, Y, fit, weights
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata
from torch import Tensor
from torchmetrics import MeanMetric

from metronome.training.batches.seeds import epoch_order
from metronome.training.guards.nonfinite import Watch
from metronome.training.logged.results import Logged

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


class Sometimes(Net):
    """Logs in every other step, and on request on one device only."""

    def __init__(self, folder: Path, rank: int | None = None) -> None:
        super().__init__()
        self.folder, self.rank = folder, rank
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx % 2 == 0 and self.rank in (None, self.global_rank):
            self.log("sometimes", batch[0].sum() * 0 + 5 + batch_idx, on_step=True, on_epoch=False)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(self.trainer.callback_metrics["sometimes"]))

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            torch.save(self.seen, self.folder / "seen.pt")


@LAYOUTS
def test_a_value_logged_in_some_steps_stays_until_the_next(layout: dict[str, Any], tmp_path: Path) -> None:
    fit(model=Sometimes(tmp_path), max_epochs=1, **layout)
    assert torch.load(tmp_path / "seen.pt") == pytest.approx([5, 5, 7, 7, 9])


def test_a_value_logged_on_one_device_only_is_refused(tmp_path: Path) -> None:
    """Where the devices would wait for each other for ever."""
    with pytest.raises(Exception, match=r"the devices log different values.*rank_zero_only=True"):
        fit(model=Sometimes(tmp_path, rank=0), max_epochs=1, devices=2, strategy="ddp_fork")


@LAYOUTS
def test_hooks_after_the_step_weigh_the_whole_share(layout: dict[str, Any], tmp_path: Path) -> None:
    class After(Net):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.log("after", batch[0][:, 0].mean(), on_step=False, on_epoch=True)

        def on_train_epoch_end(self) -> None:
            value = self.trainer.callback_metrics["after"]
            if self.trainer.is_global_zero:
                torch.save(value, tmp_path / "after.pt")

    fit(model=After(), max_epochs=1, **layout)
    assert torch.load(tmp_path / "after.pt").item() == pytest.approx(X[:, 0].mean().item(), rel=1e-6)


@pytest.mark.parametrize("evaluated", [1, 2, 3, 5])
def test_an_evaluation_of_fewer_samples_than_pieces(evaluated: int, tmp_path: Path) -> None:
    """On two devices, some batches leave one of them without a sample; torchmetrics must not count its company."""

    class Few(Data):
        def load(self) -> Any:
            return super().load()._replace(val=(X[:evaluated], Y[:evaluated]))

    class Validates(Net):
        def __init__(self) -> None:
            super().__init__()
            self.mean = MeanMetric()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mean.update(batch[0][:, 0])
            self.log("val/metric", self.mean)
            super().validation_step(batch, batch_idx)

        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            metrics = self.trainer.callback_metrics
            if self.trainer.is_global_zero:
                torch.save((metrics["val/loss"], metrics["val/metric"], weights(self)), tmp_path / "val.pt")

    fit(model=Validates(), data=Few(batch_size=32, eval_batch_size=2), max_epochs=1, devices=2, strategy="ddp_fork")
    loss, mean, trained = torch.load(tmp_path / "val.pt")
    net = Net()
    torch.nn.utils.vector_to_parameters(trained, net.parameters())
    expected = torch.nn.functional.mse_loss(net.net(X[:evaluated]), Y[:evaluated])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert mean.item() == pytest.approx(X[:evaluated, 0].mean().item(), rel=1e-5)


def test_micro_batches_that_give_no_loss_are_left_out() -> None:
    class Skips(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if len(batch[0]) == 10 else {"loss": loss, "x": batch[0]}

        # 32 = 11 + 11 + 10, and the last batch 29 = 10 + 10 + 9
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert len(outputs["x"]) == (22 if len(batch[0]) == 32 else 9)

    fit(model=Skips(), accumulate_grad_batches=3, max_epochs=1)


def test_what_a_step_returns_beside_the_loss_is_of_the_whole_batch() -> None:
    class Returns(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "x": batch[0]}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert torch.equal(outputs["x"], batch[0])

    fit(model=Returns(), accumulate_grad_batches=3, max_epochs=1)


class Arrived:
    """Stands for the event of a GPU that is behind."""

    def query(self) -> bool:
        return False

    def synchronize(self) -> None: ...


@pytest.mark.parametrize("accumulation", [1, 3])
def test_no_step_waits_for_the_device(accumulation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "_is_far", lambda self, values: True)
    monkeypatch.setattr(Watch, "_send", lambda self, values: (values, Arrived()))
    """Every way from a tensor to a number is a wait; none is taken in a step that is neither logged nor drawn."""
    waits: list[int] = []
    so_far: list[int] = []

    class Shows(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("shown", loss, on_step=True, on_epoch=False, prog_bar=True)
            return loss

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            so_far.append(len(waits))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            pass

    item = Tensor.item
    for name in ("item", "__float__", "__int__", "__bool__", "tolist"):
        original = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, original=original: waits.append(1) or original(self))
    _, run = fit(model=Shows(), max_epochs=1, limit_val_batches=0, accumulate_grad_batches=accumulation)
    assert len(so_far) == 5
    assert len(set(so_far)) == 1
    assert run.progress_bar_metrics["shown"] == pytest.approx(item(run.callback_metrics["shown"]))


def test_a_value_logged_between_steps_is_left_alone() -> None:
    class Between(Net):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.log("batch_idx", float(batch_idx), on_step=True, on_epoch=False)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert self.trainer.callback_metrics["batch_idx"] == batch_idx

    fit(model=Between(), accumulate_grad_batches=3, max_epochs=1)


def test_a_value_is_moved_only_where_it_has_to_be() -> None:
    """Lightning's walk over all there is of a logged value, at each log, takes a third of a small step."""
    walks = []

    class Walked(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            (metric,) = self.trainer.fit_loop.epoch_loop._results.values()
            walks.append(type(metric))
            return loss

    fit(model=Walked(), max_epochs=1)
    assert set(walks) == {Logged}

    mean: Any = Logged(_Metadata("fx", "x", on_epoch=True, reduce_fx=torch.mean), is_tensor=True)
    here, there = torch.device("cpu"), torch.device("meta")
    before = mean.value
    assert mean.to(here) is mean
    assert mean.value is before
    assert mean.is_on(here)
    assert not mean.is_on(there)
    mean.to(there)
    assert (mean.value.device, mean.cumulated_batch_size.device) == (there, there)


class Looks(Callback):
    """Looks at the epoch's values on the first device alone, as a progress bar does."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            dict(trainer.callback_metrics)


def test_one_device_looks_at_the_values_of_an_epoch(tmp_path: Path) -> None:
    """While the others go on to what their module sends next."""

    class Gathers(Net):
        def on_train_epoch_end(self) -> None:
            ranks: Any = self.all_gather(torch.tensor(self.global_rank))
            assert ranks.tolist() == [0, 1]
            super().on_train_epoch_end()

    record = tmp_path / "seen.pt"
    fit(model=Gathers(record=record), callbacks=[Looks()], max_epochs=2, devices=2, strategy="ddp_fork")
    whole, _ = fit(max_epochs=2)
    assert torch.load(record)["epoch_means"] == pytest.approx(whole.epoch_means, rel=1e-12)


def test_a_loss_that_is_changed_afterwards() -> None:
    """What hooks see, and what the look at it sees, is what training_step gave."""

    class Changes(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.loss = super().training_step(batch, batch_idx)
            return self.loss

        def on_after_backward(self) -> None:
            self.loss.data.fill_(float("nan"))

    changed, _ = fit(model=Changes())
    plain, _ = fit()
    assert changed.step_losses == plain.step_losses
