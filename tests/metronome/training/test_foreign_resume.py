"""Loaders that are not ours: a run resumed from any step of it sees the same samples, augmented in the same way."""

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import FEATURES, N, Net, X, Y, trainer, weights
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from metronome.units import InputError

PLAIN = TensorDataset(X, Y)


class Noisy(Dataset):
    """Draws from torch's and Python's generators for each sample."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return X[index] + torch.randn(FEATURES, dtype=torch.float64) / 10 + random.random(), Y[index]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        for index in torch.randperm(N).tolist():
            yield X[index], Y[index]


class Stateful(DataLoader):
    """Knows where it is, as torchdata's StatefulDataLoader does. Reads none of what it has read before."""

    at = start = read = 0

    def __iter__(self) -> Any:
        order, first, self.start = torch.arange(N).split(32), self.start, 0

        def batches() -> Iterator[Any]:
            for index in range(first, len(order)):
                self.at, self.read = index + 1, self.read + 1
                yield X[order[index]], Y[order[index]]

        return batches()

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["at"]


class Lazy(DataLoader):
    """Its `__iter__` is a generator, whose order goes by the epoch, as in MosaicML's and Lightning's streaming loaders:
    what a state says it takes up with the first batch, and has done with it at the end."""

    epoch = at = 0
    is_restored = False

    def __iter__(self) -> Any:
        if not self.is_restored:
            self.epoch, self.at = self.epoch + 1, 0
        order = torch.randperm(N, generator=torch.Generator().manual_seed(self.epoch)).split(32)
        for index in range(self.at, len(order)):
            self.at = index + 1
            yield X[order[index]], Y[order[index]]
        self.is_restored = False

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.at, self.is_restored = state["epoch"], state["at"], True


class LazyFromTheNext(Lazy):
    """The state at its end is that of the next epoch's beginning."""

    def state_dict(self) -> dict[str, int]:
        return super().state_dict() if self.at < len(self) else {"epoch": self.epoch + 1, "at": 0}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


LOADERS: dict[str, Callable[[], Any]] = {
    "in order": lambda: DataLoader(PLAIN, batch_size=32),
    "shuffled": lambda: DataLoader(Noisy(), batch_size=32, shuffle=True),
    "workers": lambda: DataLoader(Noisy(), batch_size=32, shuffle=True, num_workers=1),
    "generator": lambda: DataLoader(Noisy(), batch_size=32, shuffle=True, generator=seeded()),
    "generator, workers": lambda: DataLoader(Noisy(), 32, shuffle=True, num_workers=1, generator=seeded()),
    "sampler": lambda: DataLoader(Noisy(), batch_size=32, sampler=RandomSampler(Noisy(), generator=seeded())),
    "stream": lambda: DataLoader(Stream(), batch_size=32),
    "keeps its state": lambda: Stateful(PLAIN, batch_size=32),
    "lazy": lambda: Lazy(PLAIN, batch_size=32),
    "lazy, from the next": lambda: LazyFromTheNext(PLAIN, batch_size=32),
}


class Asks(Net):
    """Asks for the length of the training, for which the loaders are set up before the checkpoint is restored."""

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


def run(loader: Any, kind: type[Net] = Net, folder: Path | None = None, checkpoint: Path | None = None) -> Any:
    saves: list[Any] = []
    if folder is not None:
        saves = [
            ModelCheckpoint(folder, "{step}-step", every_n_train_steps=1, save_top_k=-1),
            ModelCheckpoint(folder, "{step}-epoch", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
        ]
    model = kind(dropout=0.2)
    made = trainer(max_epochs=3, callbacks=saves, enable_checkpointing=bool(saves))
    path = None if checkpoint is None else str(checkpoint)
    made.fit(model, loader, DataLoader(PLAIN, batch_size=64), ckpt_path=path, weights_only=True)
    return weights(model), made.global_step, made.counters


def saved(folder: Path) -> list[Path]:
    """After every second step, 5 of them in an epoch, and after each epoch."""
    steps = {f"step={step}-step" for step in (*range(1, 15, 2), 10)}
    return [path for path in sorted(folder.glob("*.ckpt")) if path.stem in steps or "epoch" in path.stem]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", [pytest.param(Net, id=""), pytest.param(Asks, id="asks for steps", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name", [n if "workers" not in n else pytest.param(n, marks=pytest.mark.slow) for n in LOADERS]
)
def test_every_checkpoint(name: str, kind: type[Net], tmp_path: Path) -> None:
    if name == "stream" and kind is Asks:
        pytest.skip("it has no length to ask for")
    whole = run(LOADERS[name](), kind, tmp_path)
    few = [tmp_path / "step=7-step.ckpt", tmp_path / "step=5-epoch.ckpt"]  # to start a worker takes long
    for path in few if "workers" in name else saved(tmp_path):
        again = run(LOADERS[name](), kind, checkpoint=path)
        assert torch.equal(again[0], whole[0]), path.stem
        assert again[1:] == whole[1:], path.stem


@pytest.mark.filterwarnings("ignore")
def test_what_a_loader_has_read_it_does_not_read_again(tmp_path: Path) -> None:
    run(LOADERS["keeps its state"](), folder=tmp_path)
    loader = LOADERS["keeps its state"]()
    run(loader, checkpoint=tmp_path / "step=7-step.ckpt")
    assert loader.read == 15 - 7


def test_a_loader_that_ends_too_soon_is_told_of() -> None:
    class Short(DataLoader):
        def __iter__(self) -> Any:
            return iter(list(super().__iter__())[:3])

    with pytest.warns(UserWarning, match="the training loader has ended after 3 of the 5 batches"):
        trainer(max_epochs=1).fit(Net(), Short(PLAIN, batch_size=32), DataLoader(PLAIN, batch_size=64))


def lightning_run(loader: Any, folder: Path, micro_batches: int) -> Any:
    saves: list[Any] = [ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)]
    made = L.Trainer(
        max_epochs=3, callbacks=saves, accumulate_grad_batches=micro_batches, logger=False, accelerator="cpu",
        devices=1, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    model = Plain()
    made.fit(model, loader, DataLoader(PLAIN, batch_size=64))
    return weights(model)


class Plain(Net):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_checkpoint_of_lightnings_own(shuffle: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the order is the data set's own the rest of its epoch is what is left; any other order is lost."""
    whole = lightning_run(DataLoader(PLAIN, batch_size=32), tmp_path, 1)
    model, made = Plain(), trainer(max_epochs=3)
    with caplog.at_level(logging.WARNING, "metronome.training"):
        loader = DataLoader(PLAIN, batch_size=32, shuffle=shuffle)
        made.fit(
            model, loader, DataLoader(PLAIN, batch_size=64), ckpt_path=str(tmp_path / "step=7.ckpt"), weights_only=True
        )
    assert made.global_step == 15
    assert torch.equal(weights(model), whole) is not shuffle
    assert ("whose order of samples cannot be had again" in caplog.text) is shuffle


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightnings_own_with_accumulation(tmp_path: Path) -> None:
    lightning_run(DataLoader(PLAIN, batch_size=16), tmp_path, 2)
    made = trainer(max_epochs=3, accumulate_grad_batches=2)
    loader = DataLoader(PLAIN, batch_size=32)
    with pytest.raises(InputError, match="in the middle of an epoch, after 14 micro-batches in 7 steps"):
        made.fit(Plain(), loader, ckpt_path=str(tmp_path / "step=7.ckpt"), weights_only=True)
    made = trainer(max_epochs=3, accumulate_grad_batches=2)
    made.fit(
        Plain(), loader, DataLoader(PLAIN, batch_size=64), ckpt_path=str(tmp_path / "step=10.ckpt"), weights_only=True
    )
    assert (made.global_step, made.fit_loop.epoch_loop.total_batch_idx) == (15, 14)
