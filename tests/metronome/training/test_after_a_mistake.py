"""In a notebook a mistake is not the end: what is tried next in the same process works."""

from typing import Any

import jobs
import lightning as L
import pytest
from torch.utils.data import DataLoader, TensorDataset


class Mine(L.LightningDataModule):
    """A loader as many write it, the batch size by its place."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails

    def train_dataloader(self) -> Any:
        if self.fails:
            raise RuntimeError("a mistake")
        return DataLoader(TensorDataset(jobs.X, jobs.Y), 32)


def test_loaders_work_after_one_that_failed() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a mistake"):
            jobs.fit(data=Mine(fails=True), max_epochs=1)
    made = DataLoader(TensorDataset(jobs.X, jobs.Y), 32)  # one that Lightning makes again, to predict
    model, run = jobs.fit(data=Mine(fails=False), max_epochs=1)
    assert run.global_step == 5
    model.predict_step = lambda batch, batch_idx: model.net(batch[0])
    assert sum(len(part) for part in run.predict(model, made)) == jobs.N
