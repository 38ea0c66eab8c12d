"""Batches of any structure are cut along their first dimension, and counted."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from metronome.training.batches.cut import count_samples, cut_batch, join_outputs, micro_batch_sizes
from metronome.units import InputError

Pair = namedtuple("Pair", "x y")
X, Y = torch.arange(10.0).reshape(5, 2), torch.arange(5)


@dataclass
class Record:
    x: torch.Tensor
    name: str


@pytest.mark.parametrize(
    ("batch", "first", "second"),
    [
        (X, X[:3], X[3:]),
        ((X, Y), (X[:3], Y[:3]), (X[3:], Y[3:])),
        ([X, Y], [X[:3], Y[:3]], [X[3:], Y[3:]]),
        ({"x": X, "y": (Y, Y)}, {"x": X[:3], "y": (Y[:3], Y[:3])}, {"x": X[3:], "y": (Y[3:], Y[3:])}),
        (Pair(X, Y), Pair(X[:3], Y[:3]), Pair(X[3:], Y[3:])),
        (Record(X, "a"), Record(X[:3], "a"), Record(X[3:], "a")),
        ((X, ["a", "b", "c", "d", "e"]), (X[:3], ["a", "b", "c"]), (X[3:], ["d", "e"])),
        ((X, torch.tensor(7.0), 3, "all", None), (X[:3], torch.tensor(7.0), 3, "all", None), None),
    ],
)
def test_cut(batch: Any, first: Any, second: Any) -> None:
    assert count_samples(batch) == 5
    found = cut_batch(batch, [3, 2])
    assert str(found[0]) == str(first)
    assert type(found[0]) is type(batch)
    assert second is None or str(found[1]) == str(second)


def test_pieces_are_views() -> None:
    assert cut_batch(X, [3, 2])[1].data_ptr() == X[3:].data_ptr()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((X, Y[:4]), r"tensors of lengths \[4, 5\]"),
        ("text", "no tensor in a str"),
        (torch.tensor(1.0), "no tensor"),
        (None, "no tensor"),
    ],
)
def test_what_cannot_be_counted(batch: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        count_samples(batch)


def test_what_cannot_be_cut() -> None:
    with pytest.raises(InputError, match="cannot cut a batch of 5 samples: it holds a Tensor of length 4"):
        cut_batch((X, Y[:4]), [3, 2])


@pytest.mark.parametrize(
    ("samples", "parts", "sizes"),
    [(32, 1, [32]), (32, 5, [7, 7, 6, 6, 6]), (3, 7, [1, 1, 1]), (1, 4, [1]), (8, 4, [2, 2, 2, 2])],
)
def test_micro_batches_are_even_and_never_empty(samples: int, parts: int, sizes: list[int]) -> None:
    assert micro_batch_sizes(samples, parts) == sizes


def test_outputs_are_joined() -> None:
    outputs = [
        {"rows": X[:3], "score": torch.tensor(1.0), "note": "a"},
        {"rows": X[3:], "score": torch.tensor(6.0), "note": "b"},
    ]
    joined = join_outputs(outputs, [3, 2])
    assert torch.equal(joined["rows"], X)
    assert joined["score"] == 3.0  # (3 x 1 + 2 x 6) / 5
    assert joined["note"] == "b"
