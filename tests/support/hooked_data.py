"""Loaders and batches that are not those of a plain DataLoader, and modules that take them."""

from typing import Any

import torch
from hooked import Data, Module, X, Y, loader
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset


class Stream(IterableDataset):
    """It has no length."""

    def __iter__(self) -> Any:
        return iter(zip(X[:15], Y[:15], strict=True))


class Batch:
    """Moved by itself, as Lightning asks it to."""

    def __init__(self, x: Any, y: Any, times_moved: int = 0) -> None:
        self.x, self.y, self.times_moved = x, y, times_moved

    def to(self, device: Any, **_: Any) -> "Batch":
        return Batch(self.x.to(device), self.y.to(device), self.times_moved + 1)


class OnObjects(Module):
    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        assert batch.times_moved == 1
        return nn.functional.mse_loss(self.net(batch.x), batch.y)


class OnTwo(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = [self.loss(part) for part in (batch["a"], batch["b"]) if part is not None]
        self.log("loss", sum(parts), batch_size=4)  # pyright: ignore
        return sum(parts)


class OnOne(Module):
    """A batch is a dict, or a list, of one loader's batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert len(batch) == 1
        return super().training_step(batch["only"] if isinstance(batch, dict) else batch[0], batch_idx)


class Moves(Data):
    """Batches are changed before, while and after they are moved."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {"x": batch[0], "y": batch[1]}

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | {"scale": 2.0}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch["x"] * batch["scale"], batch["y"]


class MovesBefore(Data):
    """As what is not on its device yet."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return Batch(*batch)


def rows(samples: int = 24) -> Any:
    """A data set that is a list."""
    return DataLoader([*zip(X[:samples], Y[:samples], strict=True)], batch_size=5)  # pyright: ignore


def objects() -> DataLoader:
    data: Any = [*zip(X[:15], Y[:15], strict=True)]
    return DataLoader(
        data,
        batch_size=4,
        collate_fn=lambda pairs: Batch(torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])),
    )


def two(mode: str | None = None) -> Any:
    loaders = {"a": loader(), "b": loader(10)}
    return loaders if mode is None else CombinedLoader(loaders, mode)  # pyright: ignore


class TwoForValidation(Data):
    def val_dataloader(self) -> Any:
        return [loader(5), loader(9)]


class Shares(Data):
    """Each device reads every second sample."""

    def loader(self, samples: int) -> DataLoader:
        data: Any = TensorDataset(X[:samples], Y[:samples])
        run: Any = self.trainer
        sampler = DistributedSampler(data, run.world_size, run.global_rank, shuffle=False)
        return DataLoader(data, batch_size=2, sampler=sampler)

    def train_dataloader(self) -> Any:
        return self.loader(16)

    def val_dataloader(self) -> Any:
        return self.loader(8)
