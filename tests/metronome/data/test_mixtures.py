"""Mixtures against a plain PyTorch loop, whose batches are put together by hand."""

import logging
import random
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from jobs import SEED, Net, X, Y, fit, network, trainer, weights
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import Dataset

from metronome.data import DataModule, Mixture, MixtureModule, Splits
from metronome.data.mixtures.sets import Together
from metronome.units import InputError

A, B = slice(0, 20), slice(20, 157)
SIZES = {"a": 20, "b": 137}
PATTERN = "bbab"  # of weights 1 and 3: by hand, the one that must be there soonest
EPOCH = 183  # ceil(137 x 4/3)


class Noisy(Dataset):
    """Samples read one by one, with noise of Python's generator."""

    def __init__(self, part: slice) -> None:
        self.x, self.y = X[part], Y[part]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index] + random.random(), self.y[index]


class Mixed(DataModule):
    def __init__(self, kind: str = "rows", of_weights: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.kind, self.of_weights = kind, of_weights or {"a": 1, "b": 3}

    def load(self) -> Splits:
        make = {"rows": lambda s: (X[s], Y[s]), "lists": lambda s: list(zip(X[s], Y[s], strict=True)), "noisy": Noisy}
        a, b = (make[self.kind](part) for part in (A, B))
        return Splits(train=Mixture({"a": a, "b": b}, self.of_weights), val=Mixture({"a": a, "b": b}))


def line(samples: int, shuffle: bool = True) -> list[int]:
    """The samples of a training one after the other, by their rows in X."""
    seen, found = {"a": 0, "b": 0}, []
    for place in range(samples):
        name = PATTERN[place % 4]
        epoch, at = divmod(seen[name], SIZES[name])
        seen[name] += 1
        if shuffle:
            seed = int(np.random.SeedSequence(SEED, spawn_key=(4, crc32(name.encode()))).generate_state(1)[0])
            words = np.random.PCG64(np.random.SeedSequence((seed, epoch))).random_raw(SIZES[name])
            at = int(np.argsort(words, kind="stable")[at])
        found.append(at + (20 if name == "b" else 0))
    return found


def by_hand(shuffle: bool) -> torch.Tensor:
    net, order = network(), line(2 * EPOCH, shuffle)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    for epoch in (order[:EPOCH], order[EPOCH:]):
        for start in range(0, EPOCH, 32):
            batch = torch.tensor(epoch[start : start + 32])
            optimizer.zero_grad()
            nn.functional.mse_loss(net(X[batch]), Y[batch]).backward()
            optimizer.step()
            schedule.step()
    return weights(net)


@pytest.mark.parametrize(("kind", "shuffle"), [("rows", True), ("rows", False), ("lists", True)])
def test_the_same_weights_as_by_hand(kind: str, shuffle: bool) -> None:
    whole = by_hand(shuffle)
    for accumulate in (1, 3) if kind == "rows" and shuffle else (3,):
        data = Mixed(kind, batch_size=32, shuffle=shuffle)
        model, run = fit(data=data, max_epochs=2, accumulate_grad_batches=accumulate)
        torch.testing.assert_close(weights(model), whole, rtol=0, atol=1e-12)
        # 366 samples: blocks of 4 with one of the first set, and two that have none of it
        assert run.counters.by_set == {
            "a": {"samples": 91, "epochs": 91 / 20}, "b": {"samples": 275, "epochs": 275 / 137}
        }  # fmt: skip


def test_a_set_is_gone_through_once_before_it_is_gone_through_again() -> None:
    of_b = [sample for sample in line(4 * 137) if sample >= 20]
    for start in (0, 137, 274):
        assert sorted(of_b[start : start + 137]) == list(range(20, 157))
    assert of_b[:137] != of_b[137:274]


@pytest.mark.parametrize("kind", ["rows", "noisy"])
def test_every_checkpoint(kind: str, tmp_path: Path) -> None:
    def run(saves: list[Any], checkpoint: Any = None) -> Any:
        model = Net(dropout=0.2)
        made = trainer(max_epochs=2, callbacks=saves, enable_checkpointing=bool(saves))
        made.fit(model, datamodule=Mixed(kind, batch_size=64), ckpt_path=checkpoint, weights_only=True)
        return weights(model), made.counters, made.counters.by_set

    at_steps = ModelCheckpoint(tmp_path, "{step}-step", every_n_train_steps=1, save_top_k=-1)
    at_ends = ModelCheckpoint(tmp_path, "{step}-epoch", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    whole = run([at_steps, at_ends])
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == 6 + 2
    for path in paths[1::3] if kind == "noisy" else paths[::2]:
        again = run([], str(path))
        assert torch.equal(again[0], whole[0]), path.stem
        assert again[1:] == whole[1:], path.stem


@pytest.mark.slow
def test_workers() -> None:
    runs = [fit(data=Mixed("noisy", batch_size=32, num_workers=n), max_epochs=2)[0] for n in (0, 2)]
    assert torch.equal(*map(weights, runs))


def test_another_mixture_is_told_of_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saves: list[Any] = [
        ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1),
        ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
    ]
    trainer(max_epochs=2, callbacks=saves, enable_checkpointing=True).fit(Net(), datamodule=Mixed(batch_size=64))
    changed = Mixed(batch_size=64, of_weights={"a": 1, "b": 1})
    with pytest.raises(InputError, match="in the middle of an epoch with num_samples=183"):
        fit(data=changed, checkpoint=str(tmp_path / "step=2.ckpt"))
    with caplog.at_level(logging.WARNING, "metronome.data"):
        fit(data=changed, checkpoint=str(tmp_path / "step=3.ckpt"), max_epochs=2)
    assert caplog.text.count("the checkpoint is of another mixture") == 1


def test_sets_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match=r"sets a and b do not make a batch: float64 of shape .10,. and"):
        Mixture({"a": (X, Y), "b": (X[:, :3], Y)})
    with pytest.raises(InputError, match="sets a and b are not made of the same parts"):
        Mixture({"a": (X, Y), "b": X})
    with pytest.raises(InputError, match="set b of the mixture is empty"):
        Mixture({"a": (X, Y), "b": []})
    assert len(Together({"a": X, "b": X[:3]})) == 160


class Part(DataModule):
    def __init__(self, part: slice, **options: Any) -> None:
        super().__init__(**options)
        self.part = part

    def load(self) -> Splits:
        return Splits(train=(X[self.part], Y[self.part]), val=(X[:5], Y[:5]))


def test_data_modules_as_one() -> None:
    data = MixtureModule({"a": Part(A), "b": Part(B), "c": None}, {"a": 1, "b": 3, "c": 5}, batch_size=32)
    model, _ = fit(data=data, max_epochs=2)
    torch.testing.assert_close(weights(model), by_hand(shuffle=True), rtol=0, atol=1e-12)
    assert len(data.splits.val) == 10
    assert data.splits.test is None


def test_data_modules_that_cannot_be_one() -> None:
    other = Part(B)
    other.collate = lambda samples: samples
    with pytest.raises(InputError, match="make batches in different ways: a by default_collate"):
        MixtureModule({"a": Part(A), "b": other})
    with pytest.raises(InputError, match=r"data.sets.a is a tuple"):
        MixtureModule({"a": (X, Y)})
    with pytest.raises(InputError, match=r"data.sets is empty"):
        MixtureModule({})
