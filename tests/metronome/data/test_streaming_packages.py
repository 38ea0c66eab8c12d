"""Loaders of other packages, where they are installed: a run goes on from where they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import N, Net, X, Y, trainer, weights
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Knows(IterableDataset):
    """Knows where it is; at its end it begins anew."""

    at = 0

    def __iter__(self) -> Any:
        while self.at < N:
            self.at += 1
            yield X[self.at - 1], Y[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def torchdata(data: Any, workers: int, **options: Any) -> Any:
    package = pytest.importorskip("torchdata.stateful_dataloader")
    return package.StatefulDataLoader(data, batch_size=32, num_workers=workers, **options)


def litdata(folder: Path, workers: int) -> Any:
    package = pytest.importorskip("litdata")
    if not (folder / "index.json").is_file():
        folder.mkdir()
        writer = package.streaming.writer.BinaryWriter(str(folder), chunk_size=32)
        for index in range(N):
            writer[index] = (X[index], Y[index])
        writer.done()
        writer.merge(1)
    data = package.StreamingDataset(str(folder), shuffle=True, seed=3)
    return package.StreamingDataLoader(data, batch_size=32, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["torchdata", "torchdata, a stream", "litdata"])
def test_checkpoints(kind: str, workers: int, tmp_path: Path) -> None:
    if kind == "torchdata, a stream" and workers:
        pytest.skip("a worker whose part has ended reads it again: torchdata's own")

    def loader() -> Any:
        if kind == "litdata":
            return litdata(tmp_path / "data", workers)
        return torchdata(Knows(), 0) if "stream" in kind else torchdata(TensorDataset(X, Y), workers, shuffle=True)

    def run(saves: Any = (), checkpoint: Any = None) -> Any:
        model, made = Net(dropout=0.2), trainer(max_epochs=2, callbacks=list(saves), enable_checkpointing=bool(saves))
        made.fit(model, loader(), DataLoader(TensorDataset(X, Y), 64), ckpt_path=checkpoint, weights_only=False)
        return weights(model), made.counters

    whole = run([ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)])
    assert whole[1].samples == 2 * N
    for step in (2, 5, 6):
        again = run(checkpoint=str(tmp_path / f"step={step}.ckpt"))
        assert torch.equal(again[0], whole[0]), step
        assert again[1] == whole[1], step
