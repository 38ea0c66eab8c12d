"""Modules, data modules and loaders written for stock Lightning run unchanged."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Data, Net, X, Y, fit, network, trainer, weights
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import (
    BoringDataModule,
    BoringModel,
    ManualOptimBoringModel,
    RandomDataset,
)
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from metronome.units import InputError

TWO_PROCESSES = {"devices": 2, "strategy": "ddp_fork"}
LAYOUTS = pytest.mark.parametrize("layout", [{}, TWO_PROCESSES], ids=["alone", "two processes"])


class Batches:
    """A loader that is no DataLoader: the batches themselves."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Counts(Callback):
    """Notes what was counted, in the process that counted it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            torch.save((trainer.global_step, trainer.counters.samples, trainer.counters.iterations), self.path)


@LAYOUTS
@pytest.mark.parametrize("data", [None, BoringDataModule], ids=["loaders of the module", "data module"])
def test_boring_model(data: Any, layout: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(max_epochs=2, limit_val_batches=3, callbacks=[Counts(tmp_path / "counts")], **layout)
    model = BoringModel()
    before = weights(model)
    run.fit(model, datamodule=data() if data else None)
    steps = 2 * 64 if not layout else 2 * 32  # 64 samples, one on each device at a time
    assert torch.load(tmp_path / "counts") == (steps, 128, steps)
    assert not torch.equal(weights(model), before)
    if not layout:
        run.validate(model, verbose=False)
        run.test(model, verbose=False)
        run.predict(model)


@LAYOUTS
def test_manual_optimization(layout: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(max_epochs=1, limit_train_batches=5, callbacks=[Counts(tmp_path / "counts")], **layout)
    run.fit(ManualOptimBoringModel())
    assert torch.load(tmp_path / "counts") == (5, 10 if layout else 5, 5)


def test_manual_optimization_cannot_be_cut() -> None:
    with pytest.raises(InputError, match=r"ManualOptimBoringModel optimizes manually.*accumulate_grad_batches=1"):
        trainer(max_epochs=1, accumulate_grad_batches=2).fit(ManualOptimBoringModel())


def test_one_cycle_over_the_estimated_steps() -> None:
    class OneCycle(BoringModel):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1)
            total = int(self.trainer.estimated_stepping_batches)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.rate = self.trainer.optimizers[0].param_groups[0]["lr"]

    model, run = OneCycle(), trainer(max_epochs=2, accumulate_grad_batches=2)
    run.fit(model, DataLoader(RandomDataset(32, 64), batch_size=6))
    assert run.global_step == run.estimated_stepping_batches == 2 * 11
    assert model.rate == pytest.approx(0.1 / 25 / 1e4)  # the last update was made at the end of the cycle


class Loaders(L.LightningDataModule):
    """Plain DataLoaders, unshuffled; each device reads the shares that `shares` gives it, if it gives any."""

    def __init__(self, batch_size: int, shares: bool = False) -> None:
        super().__init__()
        self.batch_size, self.shares = batch_size, shares

    def train_dataloader(self) -> DataLoader:
        data = TensorDataset(X, Y)
        if not self.shares:
            return DataLoader(data, self.batch_size)
        sampler = DistributedSampler(data, shuffle=False, drop_last=True)
        return DataLoader(data, self.batch_size, sampler=sampler)


@pytest.mark.parametrize("accumulation", [1, 3, 32])
def test_a_plain_loader_yields_batches(accumulation: int) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for _ in range(4):
        for x, y in zip(X.split(32), Y.split(32), strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
            schedule.step()
    model, run = fit(data=Loaders(32), accumulate_grad_batches=accumulation)
    torch.testing.assert_close(weights(model), weights(net), rtol=1e-12, atol=1e-15)
    assert run.counters.samples == 4 * 157
    assert run.plan.total_steps == run.global_step == 20
    assert run.counters.iterations == run.plan.total_iterations


@pytest.mark.parametrize("shares", [True, False], ids=["own sampler", "Lightning's sampler"])
def test_what_a_loader_yields_on_each_device_is_its_share(
    shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """157 samples in pairs: device r takes samples r, r + 2, ...; a batch is 16 of each device's."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # what Lightning seeds its sampler with
    mine = [torch.arange(r, 156, 2) for r in (0, 1)]
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in range(4):
        if not shares:  # 158 with the first one repeated, in the order of torch's sampler for seed 0 and the epoch
            mine = []
            for rank in (0, 1):
                sampler = DistributedSampler(TensorDataset(X), num_replicas=2, rank=rank, seed=0, shuffle=True)
                sampler.set_epoch(epoch)
                mine.append(torch.tensor(list(sampler)))
        for first, second in zip(mine[0].split(16), mine[1].split(16), strict=True):
            batch = torch.cat([first, second])
            optimizer.zero_grad()
            nn.functional.mse_loss(net(X[batch]), Y[batch]).backward()
            optimizer.step()
            schedule.step()
    record = tmp_path / "seen.pt"
    fit(model=Net(record=record), data=Loaders(16, shares), accumulate_grad_batches=3, **TWO_PROCESSES)
    seen = torch.load(record)
    torch.testing.assert_close(seen["weights"], weights(net), rtol=1e-12, atol=1e-15)
    assert seen["counters"]["samples"] == 4 * (156 if shares else 158)


def test_unequal_shares_are_weighed_by_their_samples(tmp_path: Path) -> None:
    """Device 0 yields 5 samples a step, device 1 only 2: the mean is over all 7."""

    class Unequal(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            x, y = (X[:5], Y[:5]) if self.trainer and self.trainer.global_rank == 0 else (X[5:7], Y[5:7])
            return Batches(*[(x, y)] * 3)

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(X[:7]), Y[:7])
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())

    class Recorded(Net):
        def on_train_end(self) -> None:
            if self.trainer.is_global_zero:
                torch.save((weights(self), self.logged, self.trainer.counters.samples), tmp_path / "seen.pt")  # pyright: ignore

    fit(model=Recorded(), data=Unequal(), max_epochs=1, accumulate_grad_batches=2, **TWO_PROCESSES)
    found, logged, samples = torch.load(tmp_path / "seen.pt")
    torch.testing.assert_close(found, weights(net), rtol=1e-12, atol=1e-15)
    assert logged == pytest.approx(losses, rel=1e-12)
    assert samples == 21


class Texts(L.LightningModule):
    """Batches without a tensor: lists of words."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(torch.tensor([[float(len(word))] for word in batch["words"]])).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Words:
    """A structure that nobody knows how to cut."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __getitem__(self, name: str) -> list[str]:
        return self.words


def test_lists_are_cut_too() -> None:
    found = []
    for accumulation in (1, 2):
        torch.manual_seed(0)
        model = Texts()
        trainer(max_epochs=1, accumulate_grad_batches=accumulation).fit(
            model, Batches(*[{"words": ["a", "bcd", "ef"]}] * 2)
        )
        found.append(weights(model))
    torch.testing.assert_close(found[0], found[1])


def test_another_structure_runs_uncut_and_is_cut_by_its_own_rule() -> None:
    batches = Batches(*[Words(["a", "bcd", "ef"])] * 2)
    torch.manual_seed(0)
    whole = Texts()
    trainer(max_epochs=1).fit(whole, batches)
    with pytest.raises(InputError, match="implement count_samples"):
        trainer(max_epochs=1, accumulate_grad_batches=2).fit(Texts(), batches)

    class Knows(Texts):
        def count_samples(self, batch: Words) -> int:
            return len(batch.words)

        def cut_batch(self, batch: Words, sizes: list[int]) -> list[Words]:
            return [Words(batch.words[: sizes[0]]), Words(batch.words[sizes[0] :])]

    torch.manual_seed(0)
    cut = Knows()
    trainer(max_epochs=1, accumulate_grad_batches=2).fit(cut, batches)
    torch.testing.assert_close(weights(cut), weights(whole))


def test_several_training_loaders_of_ours_are_refused() -> None:
    class Two(Data):
        def train_dataloader(self) -> Any:
            return {"a": super().train_dataloader(), "b": super().train_dataloader()}

    with pytest.raises(InputError, match="several training loaders"):
        fit(data=Two(batch_size=32))


def test_a_sampler_that_is_distributed_already_can_be_left_alone() -> None:
    run = trainer(use_distributed_sampler=False, devices=2, strategy="ddp_fork")
    assert not run._accelerator_connector.use_distributed_sampler
    assert trainer()._accelerator_connector.use_distributed_sampler


def test_a_training_step_that_takes_the_iterator_is_refused() -> None:
    class Iterates(BoringModel):
        def training_step(self, dataloader_iter: Any) -> Any:
            return self.step(next(dataloader_iter)[0])

    with pytest.raises(InputError, match="training_step\\(batch, batch_idx\\)"):
        trainer(max_epochs=1).fit(Iterates())


def test_a_loader_without_length_has_no_plan() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(torch.randn(12, 32))

    run = trainer(max_epochs=2)
    run.fit(BoringModel(), DataLoader(Stream(), batch_size=4))
    assert run.global_step == 6
    assert run.plan is None
    assert run.counters.samples == 24
    counted = trainer(budget="50 samples")
    counted.fit(BoringModel(), DataLoader(Stream(), batch_size=4))
    assert (counted.global_step, counted.counters.samples) == (13, 52)
    with pytest.raises(InputError, match="known length"):
        trainer(budget="0.5 epochs").fit(BoringModel(), DataLoader(Stream(), batch_size=4))
