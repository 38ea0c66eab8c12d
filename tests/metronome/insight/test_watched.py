"""The evidence for advice against gradients worked out beside it; and that it leaves the training as it was."""

from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from jobs import Data, Net, fit, weights
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import MeanMetric

from metronome.insight import Watched
from metronome.insight.watched.history import MOST_ROWS, History, Row
from metronome.insight.watched.places import COST, OVERHEAD, Places

LONG: dict[str, Any] = {"max_epochs": 8}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are as near as every fourth step, whatever they cost."""
    monkeypatch.setattr("metronome.insight.watched.places.COST", 0.5)


class Asked(Net):
    """With what gradients are asked of, which logs, draws numbers and has a state of its own."""

    def __init__(self, dropout: float = 0.0, norm: bool = False, **options: Any) -> None:
        super().__init__(dropout, **options)
        if norm:
            self.net = nn.Sequential(self.net[0], nn.BatchNorm1d(16).double(), *list(self.net)[1:])
        self.register_buffer("calls", torch.zeros(()))

    def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1  # pyright: ignore
        torch.rand(1)
        outputs = self.net(batch[0])
        loss = nn.functional.mse_loss(outputs, batch[1])
        self.log("asked", loss)
        return loss, outputs


class Beside(Callback):
    """Works out the points by itself, from what the training has at hand."""

    def __init__(self, every: int) -> None:
        self.every, self.found, self.before = every, [], []

    def gradient(self, module: Any, values: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        names = [name for name, _ in module.net.named_parameters()]
        own = [v.detach().clone().requires_grad_() for v in values]
        outputs = torch.func.functional_call(module.net, dict(zip(names, own, strict=True)), x)
        found = torch.autograd.grad(nn.functional.mse_loss(outputs, y), own)
        return torch.cat([g.flatten() for g in found])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step, now = trainer.global_step, [p.detach().clone() for p in pl_module.net.parameters()]
        if step and (step - 1) % self.every == self.every // 2:
            x, y = batch
            n, a = len(x), len(x) // 4
            g1, g2 = self.gradient(pl_module, now, x[:a], y[:a]), self.gradient(pl_module, now, x[a:], y[a:])
            whole = self.gradient(pl_module, now, x, y)
            trace = a * (g1 - whole).square().sum() + (n - a) * (g2 - whole).square().sum()
            moved = torch.cat([(p - b).flatten() for p, b in zip(now, self.before, strict=True)])
            there = self.gradient(pl_module, self.before, x, y)
            squared = whole.square().sum() - trace / n
            self.found.append([float(v) for v in (squared, trace, -moved @ there, moved @ (whole - there))])
        self.before = now


@pytest.mark.usefixtures("often")
def test_points_against_gradients_worked_out_beside() -> None:
    every = Places.of(40, 32, 32).every
    watched, beside = Watched(), Beside(every)
    fit(model=Asked(), callbacks=[beside, watched], **LONG)
    points = watched.watched["gradients"]
    assert len(points["step"]) == len(beside.found) >= 5
    columns = zip(*(points[name] for name in ("squared", "trace", "gain", "curvature")), strict=True)
    for found, expected in zip(columns, beside.found, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("options", [{"dropout": 0.3}, {"norm": True}])
def test_it_leaves_the_training_as_it_was(options: dict[str, Any]) -> None:
    watched = Watched()
    module, run = fit(model=Asked(**options), callbacks=[watched], **LONG)
    plain, alone = fit(model=Asked(**options), **LONG)
    assert len(watched.watched["gradients"]["step"]) >= 5
    assert torch.equal(weights(module), weights(plain))
    for (name, buffer), other in zip(module.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(buffer, other), name
    assert module.step_losses == plain.step_losses
    assert run.callback_metrics == alone.callback_metrics


@pytest.mark.usefixtures("often")
def test_cut_batches_and_small_ones() -> None:
    """A piece is no larger than two micro-batches; a batch of two is too small, and others are read."""
    cut, small = Watched(), Watched()
    module, _ = fit(model=Asked(), callbacks=[cut], accumulate_grad_batches=8, **LONG)
    plain, _ = fit(model=Asked(), accumulate_grad_batches=8, **LONG)
    assert torch.equal(weights(module), weights(plain))
    assert set(cut.watched["gradients"]["samples"]) == {8}
    fit(model=Asked(), data=Data(batch_size=2), callbacks=[small], max_epochs=1)
    assert small.watched["no_gradients"] is None
    assert set(small.watched["gradients"]["samples"]) == {32}


@pytest.mark.usefixtures("often")
def test_what_goes_wrong_in_it_ends_no_training() -> None:
    class Broken(Asked):
        def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
            raise RuntimeError("not today")

    watched = Watched()
    module, _ = fit(model=Broken(), callbacks=[watched], **LONG)
    plain, _ = fit(model=Asked(), **LONG)
    assert torch.equal(weights(module), weights(plain))
    assert watched.watched["no_gradients"] == "RuntimeError: not today"
    assert module.training
    assert "log" not in vars(module)


@pytest.mark.usefixtures("often")
def test_a_run_that_goes_on_has_the_evidence_of_before(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 17:  # in the middle of an epoch
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    whole, resumed = Watched(), Watched()
    fit(model=Asked(), callbacks=[whole, Save()], **LONG)
    fit(model=Asked(), callbacks=[resumed], checkpoint=str(tmp_path / "middle.ckpt"), **LONG)
    assert resumed.watched["gradients"] == whole.watched["gradients"]
    ours, theirs = resumed.watched["history"], whole.watched["history"]
    assert ours.keys() == theirs.keys()
    for name, column in ours.items():
        assert column == pytest.approx(theirs[name], rel=1e-9), name
    assert resumed.watched["first_loss"] == whole.watched["first_loss"]


def test_the_course_of_the_losses() -> None:
    watched = Watched()
    module, _ = fit(callbacks=[watched])
    history, losses = watched.watched["history"], np.array(module.step_losses).reshape(4, 5)
    assert history["step"] == [5, 10, 15, 20]
    assert history["samples"] == [157, 314, 471, 628]
    assert history["val"] == pytest.approx(module.val_losses, rel=1e-5)
    assert history["train"] == pytest.approx(losses.mean(1), rel=1e-5)
    assert history["train_std"] == pytest.approx(losses.std(1, ddof=1), rel=1e-5)
    assert watched.watched["no_gradients"] == "Net has no loss_and_outputs(batch) to ask for a gradient"


@pytest.mark.parametrize("ends", [150, 201, 1_000])
def test_history_stays_short(ends: int) -> None:
    history, losses = History(), np.random.default_rng(0).normal(size=(ends, 3))
    for i, row in enumerate(losses):
        made = Row(i + 1, i, 10 * i, val=float(i))
        for loss in row:
            made.add(loss)
        history.end(made)
    restored = History()
    restored.restore(history.state())
    columns, each = restored.columns(), history.of_each
    assert len(columns["step"]) <= MOST_ROWS
    groups = [losses[i : i + each] for i in range(0, ends, each)]
    assert columns["train"] == pytest.approx([group.mean() for group in groups], rel=1e-4)
    assert columns["train_std"] == pytest.approx([group.std(ddof=1) for group in groups], rel=1e-4)
    assert columns["step"][-1] == ends


@pytest.mark.parametrize("steps", [20, 300, 5_000, 10**6])
@pytest.mark.parametrize("batch", [1, 2, 16, 64, 1_257, 10**5])
def test_what_points_cost(steps: int, batch: int) -> None:
    places = Places.of(steps, batch, batch)
    cost = 2 * (places.samples + OVERHEAD) / (batch + OVERHEAD)
    assert cost / places.every <= COST * (1 + 1e-9)


@pytest.mark.usefixtures("often")
def test_on_two_devices(tmp_path: Path) -> None:
    class Kept(Watched):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_end(trainer, pl_module)
            torch.save(self.watched, tmp_path / f"watched{trainer.global_rank}")

    found = []
    for i, callbacks in enumerate(([Kept()], [])):
        record = tmp_path / f"seen{i}"
        fit(model=Asked(record=record), callbacks=callbacks, devices=2, strategy="ddp_fork", max_epochs=4)
        found.append(torch.load(record)["weights"])
    assert torch.equal(*found)
    first, second = (torch.load(tmp_path / f"watched{rank}") for rank in (0, 1))
    assert first["gradients"]["step"]
    assert not second["gradients"]["step"]
    assert len(first["data_ms_of_devices"]) == 2


class Joined(Asked):
    """A loss over the outputs of all devices, as contrastive ones are."""

    def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        loss, outputs = super().loss_and_outputs(batch)
        torch.distributed.all_reduce(outputs.detach().sum())
        return loss, outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss_and_outputs(batch)[0]
        self.log("loss", loss, on_step=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...


@pytest.mark.usefixtures("often")
def test_a_loss_that_talks_to_other_devices_is_not_waited_for(tmp_path: Path) -> None:
    class Kept(Watched):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_end(trainer, pl_module)
            torch.save(self.watched["no_gradients"], tmp_path / f"off{trainer.global_rank}")

    fit(model=Joined(), callbacks=[Kept()], devices=2, strategy="ddp_fork", max_epochs=2)
    assert "talks to the other devices" in torch.load(tmp_path / "off0")
    assert jobs.N  # the data of both


class Counts(Asked):
    """Its loss goes by how often it was asked, and by a metric: neither is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.losses, self.seen = 0, [], MeanMetric()

    def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        self.asked += 1
        loss, outputs = super().loss_and_outputs(batch)
        self.losses.append(loss.item())
        self.seen(len(self.losses))
        return loss * (1 + 0.01 * self.asked + 0.01 * float(self.seen.compute())), outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss_and_outputs(batch)[0]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...


@pytest.mark.usefixtures("often")
def test_what_a_module_counts_stays_as_it_was() -> None:
    watched = Watched()
    module, _ = fit(model=Counts(), callbacks=[watched], max_epochs=3)
    plain, _ = fit(model=Counts(), max_epochs=3)
    assert len(watched.watched["gradients"]["step"]) >= 2
    assert (module.asked, module.losses) == (plain.asked, plain.losses)  # pyright: ignore
    assert torch.equal(weights(module), weights(plain))
