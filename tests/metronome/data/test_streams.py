"""Streams as a training split: the same batches as in a plain PyTorch loop, on any layout, from any checkpoint."""

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import N, Net, X, Y, network, trainer, weights
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from metronome.data import DataModule, Splits
from metronome.units import InputError


class Plain(IterableDataset):
    """Always the same samples; it does not know where it is."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list(zip(X, Y, strict=True)))


class Knows(IterableDataset):
    """Knows where it is, and has another order in each epoch; draws from two generators; one that is left goes on from
    there, and one that has come to its end begins anew."""

    at = epoch = 0

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(N, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.at < N:
            self.at += 1
            index = order[self.at - 1]
            yield X[index] + random.random() + torch.rand((), dtype=torch.float64), Y[index]
        self.at, self.epoch = 0, self.epoch + 1

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at, self.epoch = state["at"], state["epoch"]


class ByEpoch(IterableDataset):
    """Is told the epoch; begins anew each time, but once after its state was loaded."""

    epoch, at, start = -1, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        for index in torch.randperm(N, generator=torch.Generator().manual_seed(self.epoch)).tolist()[start:]:
            start += 1
            self.at = start
            yield X[index], Y[index]

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["at"]


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from zip(X, Y, strict=True)


class Data(DataModule):
    def __init__(self, stream: Any, val: Any = (X[:23], Y[:23]), **options: Any) -> None:
        options.setdefault("batch_size", 32)
        super().__init__(**options)
        self.given = Splits(train=stream, val=val)

    def load(self) -> Splits:
        return self.given


def run(stream: Any, saves: Any = (), checkpoint: Any = None, dropout: float = 0.0, **options: Any) -> Any:
    of_data = {name: options.pop(name) for name in ("drop_last", "num_workers", "batch_size") if name in options}
    model = Net(dropout)
    made = trainer(callbacks=list(saves), enable_checkpointing=bool(saves), **{"max_epochs": 3} | options)
    made.fit(model, datamodule=Data(stream, **of_data), ckpt_path=checkpoint, weights_only=True)
    return weights(model), made.global_step, made.counters.samples, made


def ended(flags: dict[str, Any]) -> dict[str, Any]:
    """These flags, with no other end where they have a budget."""
    return flags | ({"max_epochs": None} if "budget" in flags else {})


def by_hand(steps: int, drop_last: bool = False) -> torch.Tensor:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
    starts = list(range(0, N, 32))[: 4 if drop_last else 5] * 3
    for start in starts[:steps]:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X[start : start + 32]), Y[start : start + 32]).backward()
        optimizer.step()
        schedule.step()
    return weights(net)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_same_weights_as_by_hand(accumulate: int) -> None:
    found = run(Plain(), accumulate_grad_batches=accumulate)
    assert found[1:3] == (15, 3 * N)
    torch.testing.assert_close(found[0], by_hand(15), rtol=0, atol=1e-12)
    found = run(Plain(), accumulate_grad_batches=accumulate, drop_last=True, max_epochs=2)
    assert found[1:3] == (8, 2 * 128)
    torch.testing.assert_close(found[0], by_hand(8, drop_last=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ({"budget": "7 steps"}, 7),
        ({"budget": "300 samples"}, 10),  # 157 in 5 steps, then 4 of 32 are 285, and the last of 29 makes 314
        ({"max_steps": 7, "max_epochs": -1}, 7),
    ],
)
def test_budgets(flags: dict[str, Any], steps: int) -> None:
    found = run(Plain(), **ended(flags))
    assert found[1] == steps
    torch.testing.assert_close(found[0], by_hand(steps), rtol=0, atol=1e-12)


def test_a_stream_without_end() -> None:
    """320 samples are 10 steps, which a schedule can know before; validated each 4."""
    seen = run(Endless(), budget="320 samples", max_epochs=None, val_check_interval=4, check_val_every_n_epoch=None)
    assert (seen[1:3], seen[3].estimated_stepping_batches) == ((10, 320), 10)
    assert len(seen[3].lightning_module.val_losses) == 2 + 1  # and at the end
    seen = run(Endless(), max_epochs=2, limit_train_batches=3)
    assert seen[1:3] == (6, 192)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"limit_train_batches": 3}], ids=str)
@pytest.mark.parametrize("kind", [Knows, pytest.param(ByEpoch, marks=pytest.mark.slow)])
def test_checkpoints(kind: Any, options: dict[str, Any], tmp_path: Path) -> None:
    at_steps = ModelCheckpoint(tmp_path, "{step}-step", every_n_train_steps=1, save_top_k=-1)
    at_ends = ModelCheckpoint(tmp_path, "{step}-epoch", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True)
    whole = run(kind(), [at_steps, at_ends], dropout=0.2, **options)
    for path in sorted(tmp_path.glob("*-step.ckpt"))[1::3] + sorted(tmp_path.glob("*-epoch.ckpt"))[:1]:
        again = run(kind(), checkpoint=str(path), dropout=0.2, **options)
        assert torch.equal(again[0], whole[0]), path.stem
        assert again[1:3] == whole[1:3], path.stem


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Plain, Knows, ByEpoch])
def test_a_worker_changes_nothing(kind: Any, tmp_path: Path) -> None:
    at_steps = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(kind(), [at_steps])
    assert torch.equal(run(kind(), num_workers=1)[0], whole[0])
    for step in (3, 5, 6, 10):
        again = run(kind(), checkpoint=str(tmp_path / f"step={step}.ckpt"), num_workers=1)
        assert torch.equal(again[0], whole[0]), step


def test_what_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saves = [ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)]
    with caplog.at_level(logging.INFO, "metronome.training"):
        run(Plain(), saves, max_epochs=1)
        assert "trainer.max_epochs=1: the training data have no length, so an epoch lasts until" in caplog.text
        assert "the training data keep no state" in caplog.text
        caplog.clear()
        run(Plain(), checkpoint=str(tmp_path / "step=2.ckpt"), max_epochs=1)
        assert "resumed in mid-epoch: read past the 2 batches before the checkpoint" in caplog.text
        caplog.clear()
        run(Knows(), saves, budget="2 steps", max_epochs=None)
        assert caplog.text == ""


class Odd(IterableDataset):
    """Gives what it is told to; a sample that is an error is raised."""

    def __init__(self, *samples: Any) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        for sample in self.samples:
            if isinstance(sample, Exception):
                raise sample
            yield sample


def test_a_stream_that_raises_says_where() -> None:
    with pytest.raises(ValueError, match="record") as error:
        run(Odd(*[(X[0], Y[0])] * 40, ValueError("a bad record")), max_epochs=1)
    assert error.value.__notes__ == ["in batch 2 of epoch 1 of the stream Odd"]


@pytest.mark.parametrize(
    ("data", "flags", "said"),
    [
        (Data(Plain(), batch_size="full"), {}, "data.batch_size=full of a stream must be a number"),
        (Data(Plain(), batch_growth={"factor": 2}), {}, "data.batch_growth goes by epochs"),
        (Data(Plain(), num_workers=2), {}, "data.num_workers=2: a stream is read in order"),
        (Data(Odd()), {}, "the stream Odd did not give a sample, in epoch 1; its __iter__"),
        (Data(Odd((X[0], Y[0])), drop_last=True), {}, "did not give as many samples as a batch has"),
        (Data(Odd((X[0], Y[0]), (X[0],))), {}, "samples of Odd do not make a batch"),
        (Data(Odd(object())), {}, "samples of Odd do not make a batch"),
        (Data(iter([1, 2])), {}, "can be gone through only once"),
        (Data((X, Y), val=Plain()), {}, "the validation data set is a stream .Plain."),
        (Data(Plain()), {"budget": "1.5 epochs", "max_epochs": None}, "give it in steps or samples"),
        (Data(Plain()), {"val_check_interval": 0.5}, "val_check_interval=0.5 is a part of an epoch"),
    ],
)
def test_what_is_refused(data: Data, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        trainer(**{"max_epochs": 1} | flags).fit(Net(), datamodule=data)


def test_a_foreign_loader_whose_length_nobody_knows(tmp_path: Path) -> None:
    """Lightning reads a batch ahead of it; what a checkpoint keeps is where it was before."""

    class Loader(DataLoader):
        at = start = 0

        def __iter__(self) -> Any:
            start, self.start = self.start, 0
            for index, taken in list(enumerate(torch.arange(N).split(32)))[start:]:
                self.at = index + 1
                yield X[taken], Y[taken] + torch.rand((), dtype=torch.float64)

        def state_dict(self) -> dict[str, int]:
            return {"at": self.at}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.start = state["at"]

    def fit(saves: Any = (), checkpoint: Any = None) -> Any:
        model, made = Net(), trainer(max_epochs=2, callbacks=list(saves), enable_checkpointing=bool(saves))
        loader = Loader(Plain(), batch_size=32)
        made.fit(model, loader, DataLoader(TensorDataset(X, Y), 64), ckpt_path=checkpoint, weights_only=True)
        return weights(model), made.global_step

    whole = fit([ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)])
    for step in (1, 4, 5, 6, 9):
        again = fit(checkpoint=str(tmp_path / f"step={step}.ckpt"))
        assert (torch.equal(again[0], whole[0]), again[1]) == (True, whole[1]), step
