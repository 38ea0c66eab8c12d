"""Floats are read in the type of the weights: once for tensors and arrays, batch by batch for other data sets."""

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from metronome.data import DataModule, Rows, Splits, floats
from metronome.data import rows as rows_module  # where they are cast
from metronome.models import Regressor

X, Y = jobs.X.numpy(), jobs.Y[:, 0].numpy()  # float64
SAID = "data       float64 read as float32; trainer.precision=64-true keeps float64"


class Samples(Dataset):
    """Rows one by one; the target a float of Python's, of which PyTorch makes float64."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], float(self.y[index])


class Data(DataModule):
    def __init__(self, x: Any = X, y: Any = Y, make: Any = lambda x, y: (x, y), **options: Any) -> None:
        super().__init__(batch_size=32, **options)
        self.x, self.y, self.make = x, y, make

    def load(self) -> Splits:
        return Splits(self.make(self.x, self.y), self.make(self.x[:20], self.y[:20]))


class Seen(Regressor):
    """Keeps the types of what it is given."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(jobs.FEATURES, 1), nn.Flatten(0))
        super().__init__(network=network, optimizer=partial(torch.optim.SGD, lr=0.1), **options)
        self.seen: set[tuple[torch.dtype, ...]] = set()

    def loss_and_outputs(self, batch: Any) -> Any:
        self.seen.add(tuple(part.dtype for part in batch))
        return super().loss_and_outputs(batch)


def trained(data: DataModule, model: Seen | None = None, **flags: Any) -> Seen:
    return jobs.fit(model=model or Seen(), data=data, **{"max_epochs": 2, **flags})[0]


FLOATS, DOUBLES = {(torch.float32,) * 2}, {(torch.float64,) * 2}


@pytest.mark.parametrize("kind", ["rows", "a memory map", "samples"])
def test_float64_for_weights_of_float32(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same weights as with float32 given, bit for bit, and one line says so; as given where the weights are so."""
    given: dict[str, Any] = {}
    if kind == "samples":
        given = {"make": Samples}
    elif kind == "a memory map":
        mapped = np.memmap(tmp_path / "x", dtype=np.float64, mode="w+", shape=X.shape)
        mapped[:] = X
        given = {"x": mapped}
    caplog.set_level(logging.INFO, "metronome.data")
    data = Data(**given)
    model = trained(data)
    assert model.seen == FLOATS
    assert caplog.messages == [SAID]
    caplog.clear()
    assert torch.equal(jobs.weights(trained(Data(X.astype("f4"), Y.astype("f4")))), jobs.weights(model))
    for again in (data, Data(**given)):  # nothing of it was lost
        assert trained(again, precision="64-true").seen == DOUBLES
        assert trained(again, Seen().double()).seen == DOUBLES
    assert caplog.messages == []


@pytest.mark.parametrize("precision", ["64-true", "32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_floats_of_any_length_are_those_of_the_precision(precision: str, kind: str) -> None:
    seen = trained(Data(X.astype(kind), Y.astype(kind)), precision=precision, max_epochs=1).seen
    assert seen == (DOUBLES if precision == "64-true" else FLOATS)


def test_rows_are_cast_once_and_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step does; and what is loaded stays as it is."""
    casts, data, cast = [], Data(), floats.cast
    monkeypatch.setattr(rows_module, "cast", lambda batch, to: casts.append(len(batch[0])) or cast(batch, to))
    trained(data)
    assert casts == [len(X), 20]
    assert data.splits.train.columns[0].data_ptr() == X.ctypes.data
    same = Rows((X.astype("f4"), np.arange(len(X))))
    assert same.with_floats(torch.float32) is same


def test_as_they_come() -> None:
    data = Data()
    data.casts_floats = False
    with pytest.raises(RuntimeError, match="same dtype"):
        trained(data)


def test_samples_that_workers_read() -> None:
    """What one of them has said the others know, and a copy made after it."""
    data = Data(make=Samples, num_workers=1)
    assert trained(data, max_epochs=1).seen == FLOATS
    assert data._told._is_said
    assert copy.deepcopy(data)._told._is_said


def test_weights_of_several_types_are_left_to_their_owner() -> None:
    """Nobody knows which of them a float is for."""
    model = Seen().double()
    model.scale = nn.Parameter(torch.ones(()))
    assert trained(Data(), model, max_epochs=1).seen == DOUBLES
