"""Samplers of one's own that rely on equal generators on all devices: each sample is seen once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Net, fit
from torch.utils.data import DataLoader, Dataset, Sampler

N, DEVICES = 156, 2


class Dealt(Sampler[int]):
    """An order drawn from torch's generator, the same in all processes if that is, and dealt out to them."""

    def __init__(self, rank: int, draws_at_once: bool) -> None:
        self.rank, self.draws_at_once = rank, draws_at_once

    def __len__(self) -> int:
        return N // DEVICES

    def __iter__(self) -> Iterator[int]:
        return iter(self.own()) if self.draws_at_once else self.later()

    def later(self) -> Iterator[int]:
        yield from self.own()

    def own(self) -> list[int]:
        return torch.randperm(N)[self.rank :: DEVICES].tolist()


class Numbers(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((10,), float(index), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


class Loads(L.LightningDataModule):
    def __init__(self, draws_at_once: bool, num_workers: int) -> None:
        super().__init__()
        self.draws_at_once, self.num_workers = draws_at_once, num_workers

    def train_dataloader(self) -> Any:
        rank = self.trainer.global_rank  # pyright: ignore
        torch.manual_seed(rank)  # as in processes that nobody has seeded alike
        return DataLoader(
            Numbers(), batch_size=8, sampler=Dealt(rank, self.draws_at_once), num_workers=self.num_workers
        )


class Sees(Net):
    def __init__(self, folder: Path) -> None:
        super().__init__(dropout=0.5)
        self.folder, self.seen, self.epochs = folder, [], []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen += batch[0][:, 0].int().tolist()
        return super().training_step(batch, batch_idx) * 0

    def on_train_epoch_end(self) -> None:
        self.epochs.append(self.seen)
        self.seen = []
        torch.save(self.epochs, self.folder / f"{self.trainer.global_rank}.pt")


@pytest.mark.parametrize(("draws_at_once", "num_workers"), [(False, 0), (True, 0), (False, 1)])
def test_each_sample_once(draws_at_once: bool, num_workers: int, tmp_path: Path) -> None:
    fit(
        model=Sees(tmp_path), data=Loads(draws_at_once, num_workers), devices=DEVICES, strategy="ddp_fork",
        max_epochs=3, use_distributed_sampler=False,
    )  # fmt: skip
    orders = []
    for mine, others in zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(DEVICES)), strict=True):
        assert sorted(mine + others) == list(range(N))
        orders.append(tuple(mine))
    assert len(set(orders)) == 3, "each epoch in another order"
