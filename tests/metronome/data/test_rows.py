"""Data sets read a batch at a time, and the random numbers of each sample."""

import random
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from metronome.data import Rows
from metronome.data.rows import BatchReader, as_dataset, whole_batch
from metronome.training.batches.order import BatchSampler, Share
from metronome.units import BatchSchedule, InputError

X = torch.arange(10.0).reshape(5, 2)  # row i is (2i, 2i + 1)
Y = torch.arange(5) * 10
Pair = namedtuple("Pair", "x y")
READ = torch.tensor([3, 0])
X_READ, Y_READ = torch.tensor([[6.0, 7.0], [0.0, 1.0]]), torch.tensor([30, 0])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (X, X_READ),
        (X.numpy(), X_READ),
        ((X, Y), (X_READ, Y_READ)),
        ((X.numpy(), Y), (X_READ, Y_READ)),
        (Pair(X, Y), Pair(X_READ, Y_READ)),
        ({"x": X, "y": Y.numpy()}, {"x": X_READ, "y": Y_READ}),
        ({"x": (X, {"y": Y.numpy()}), "z": Y}, {"x": (X_READ, {"y": Y_READ}), "z": Y_READ}),
        (X.numpy()[:, ::-1], X_READ.flip(1)),  # torch takes no negative strides
    ],
    ids=["tensor", "array", "tuple", "mixed", "namedtuple", "dict", "nested", "reversed view"],
)
def test_rows_keep_their_nesting(columns: Any, expected: Any) -> None:
    for rows in (Rows(columns), as_dataset(columns)):
        assert isinstance(rows, Rows)
        assert len(rows) == 5
        assert type(rows[READ]) is type(expected)
        torch.testing.assert_close(rows[READ], expected, rtol=0, atol=0)


def test_one_row() -> None:
    x, y = Rows((X, Y))[4]
    assert (x.tolist(), y.item()) == ([8.0, 9.0], 40)


@pytest.mark.parametrize(
    ("columns", "lengths"),
    [((X, Y[:4]), "[5, 4]"), ({"x": X, "y": (Y, Y[:1].numpy())}, "[5, 5, 1]"), ((), "[]")],
)
def test_unequal_columns_are_refused(columns: Any, lengths: str) -> None:
    with pytest.raises(InputError) as error:
        Rows(columns)
    assert str(error.value) == f"the columns of a data set must be equally long, and these have lengths {lengths}"


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        yield 1

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (5, "int"),
        (None, "NoneType"),
        ("abc", "str"),
        (torch.tensor(5), "Tensor"),
        (np.array(5), "ndarray"),
        (object(), "object"),
        (Endless(), "Endless"),
        ((), "tuple"),
        ({}, "dict"),
        # These would pass for data sets of two samples, their columns.
        ((X, [1, 2, 3, 4, 5]), "tuple of Tensor, list"),
        ({"x": X, "y": [1, 2, 3, 4, 5]}, "dict of Tensor, list"),
        ((X, {"y": (Y, 1)}), "tuple of Tensor, dict"),
    ],
)
def test_what_is_no_data_set(source: Any, name: str) -> None:
    with pytest.raises(InputError) as error:
        as_dataset(source)
    assert str(error.value) == (
        "a data set must be a map-style Dataset (with __len__ and __getitem__), a list of samples, "
        f"or tensors or arrays in tuples or dicts, and this is a {name}"
    )


@pytest.mark.parametrize("source", [TensorDataset(X, Y), Subset(TensorDataset(X, Y), [1, 3]), [1, 2, 3], Rows(X)])
def test_a_data_set_passes_through(source: Any) -> None:
    assert as_dataset(source) is source


# ---- augmentation ----------------------------------------------------------------------------------------


class Augmented(Dataset):
    """A sample's index, and a number drawn from each of the three generators."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = torch.rand((), dtype=torch.float64), np.random.random(), random.random()
        return torch.tensor([index, *drawn], dtype=torch.float64)


class AugmentedRows(Rows):
    """Rows that draw as they are read."""

    def __getitem__(self, index: Any) -> Any:
        drawn = [torch.rand((), dtype=torch.float64), np.random.random(), random.random()]
        return torch.cat([super().__getitem__(index).reshape(1), torch.tensor(drawn, dtype=torch.float64)])


def drawn(
    epoch: int = 0,
    *,
    dataset: Any = Augmented(),  # noqa: B008
    workers: int = 0,
    batch_size: int = 3,
    seed: int = 5,
    rank: int = 0,
    devices: int = 1,
) -> dict[int, list[float]]:
    """What each sample drew when an epoch was read, by its index."""
    sampler: Any = BatchSampler(7, BatchSchedule(batch_size), seed=seed, rank=rank, devices=devices)
    sampler.position = epoch, 0
    reader = BatchReader(dataset, seed)
    loader = DataLoader(reader, batch_sampler=sampler, collate_fn=whole_batch, num_workers=workers)
    return {int(row[0]): row[1:].tolist() for batch in loader for row in batch}


def test_a_sample_draws_the_same_however_it_is_read() -> None:
    expected = drawn()
    assert sorted(expected) == list(range(7))
    for numbers in zip(*expected.values(), strict=True):  # torch's, numpy's, Python's
        assert len(set(numbers)) == 7
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    for way in ({"workers": 0}, {"workers": 2}, {"batch_size": 7}, {"batch_size": 1}):
        assert drawn(**way) == expected, way
    rows = AugmentedRows(torch.arange(7.0, dtype=torch.float64))
    for workers in (0, 2):
        assert drawn(dataset=rows, workers=workers) == expected
    for rank in (0, 1):
        assert expected.items() >= drawn(rank=rank, devices=2).items()


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 6}, {"epoch": 1, "seed": 4}])
def test_a_sample_draws_anew_in_another_epoch_and_with_another_seed(other: dict[str, int]) -> None:
    first, second = drawn(), drawn(**other)
    for index in range(7):
        for one, another in zip(first[index], second[index], strict=True):
            assert one != another


class Broken(Augmented):
    def __getitem__(self, index: int) -> torch.Tensor:
        super().__getitem__(index)
        raise OSError("no such file")


@pytest.mark.parametrize("dataset", [Augmented(), Broken(), Rows(X)])
def test_reading_leaves_the_generators_alone(dataset: Any) -> None:
    def states() -> tuple:
        name, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), (name, list(keys), *rest), random.getstate()  # pyright: ignore

    before = states()
    try:
        BatchReader(dataset, 5).__getitems__(Share(0, np.array([1, 2])))
    except OSError:
        assert isinstance(dataset, Broken)
    assert states() == before


def test_reading_leaves_the_gpu_generators_alone(monkeypatch: Any) -> None:
    """Else dropout on a GPU depends on the last sample read, with no workers, and not with some."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    BatchReader(Augmented(), 5).__getitems__(Share(0, np.array([1, 2])))
    assert seeded == []


def test_rows_are_read_at_once(monkeypatch: Any) -> None:
    reads, read = [], Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda self, index: reads.append(index) or read(self, index))
    x, y = BatchReader(Rows((X, Y)), 0).__getitems__(Share(0, READ.numpy()))
    assert len(reads) == 1
    assert torch.equal(x, X_READ)
    assert torch.equal(y, Y_READ)
