"""Batches of other structures in a training: cut, and the weights are those of a plain loop; or refused in one line."""

import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from metronome.training import Trainer
from metronome.units import InputError

N, B, CLASSES = 22, 6, ["ape", "bee", "cat", "dog", "eel", "fox"]
DRAWN = torch.Generator().manual_seed(0)
IMAGES = [torch.randn(3, 4, width, generator=DRAWN, dtype=torch.float64) for width in [4, 5] * (N // 2)]
SAME = [torch.randn(3, 4, 4, generator=DRAWN, dtype=torch.float64) for _ in range(N)]
LABELS = [i % 5 for i in range(N)]
Collate = Callable[[list[Any]], Any]


class Module(L.LightningModule):
    """The mean over its samples, of whatever structure they are, of a loss."""

    def __init__(self, rows: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.rows = nn.Linear(3, 1).double(), rows

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.rows(batch)
        return ((self.layer(x).squeeze(-1) - y) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def means(images: Any) -> Tensor:
    return torch.stack([image.mean(dim=(1, 2)) for image in images])


def numbers(values: Any) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def lengths(words: Any) -> Tensor:
    return numbers(len(word) for word in words)


def boxes(batch: list[Any]) -> Any:
    return tuple(zip(*[(x, {"boxes": torch.full((y + 1, 4), y), "id": y}) for x, y in batch], strict=True))


def pairs(batch: list[Any]) -> Any:
    return tuple(zip(*batch, strict=True))


def rows_and(change: Callable[[Tensor, Tensor], Any]) -> Collate:
    """Joins samples to their rows and targets, and changes these."""
    return lambda batch: change(means(x for x, _ in batch), numbers(y for _, y in batch))


def jagged(batch: list[Any]) -> Any:
    return torch.nested.nested_tensor([x.mean(1).T for x, _ in batch], layout=torch.jagged), pairs(batch)[1]


def jagged_rows(batch: Any) -> Any:
    return torch.stack([x.mean(0) for x in batch[0].unbind()]), numbers(batch[1])


def strings(batch: list[Any]) -> Any:
    return {"x": means(x for x, _ in batch), "y": [CLASSES[y] * y for _, y in batch]}


def time_major(batch: list[Any]) -> Tensor:
    return torch.stack([x[:, 0].T for x, _ in batch], dim=1)


CUT: dict[str, tuple[list[Tensor], Collate, Callable[[Any], Any]]] = {
    "tuples of images and numbers": (SAME, pairs, lambda b: (means(b[0]), numbers(b[1]))),
    "images of other sizes": (IMAGES, pairs, lambda b: (means(b[0]), numbers(b[1]))),
    "a tuple of numbers": (SAME, rows_and(lambda x, y: (x, tuple(y.tolist()))), lambda b: (b[0], numbers(b[1]))),
    "images and boxes": (IMAGES, boxes, lambda b: (means(b[0]), numbers(t["boxes"].double().mean() for t in b[1]))),
    "a list of pairs": (IMAGES, list, lambda b: (means(x for x, _ in b), numbers(y for _, y in b))),
    "strings": (SAME, strings, lambda b: (b["x"], lengths(b["y"]))),
    "sparse": (SAME, rows_and(lambda x, y: (x.to_sparse(), y)), lambda b: (b[0].to_dense(), b[1])),
    "jagged": (IMAGES, jagged, jagged_rows),
    "arrays": (SAME, rows_and(lambda x, y: (x.numpy(), y.numpy())), lambda b: [*map(torch.from_numpy, b)]),
    "classes of another number": (SAME, rows_and(lambda x, y: (x, y, CLASSES[:5])), lambda b: (b[0], b[1] * len(b[2]))),
}


def fitted(collate: Collate, images: list[Tensor], rows: Any, accumulation: int) -> Tensor:
    module = Module(rows)
    loader = DataLoader(list(zip(images, LABELS, strict=True)), batch_size=B, collate_fn=collate)  # pyright: ignore
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    Trainer(max_epochs=2, accumulate_grad_batches=accumulation, **quiet).fit(module, loader)
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def plain(collate: Collate, images: list[Tensor], rows: Any) -> Tensor:
    module, samples = Module(rows), list(zip(images, LABELS, strict=True))
    optimizer = module.configure_optimizers()
    for _ in range(2):
        for start in range(0, N, B):
            optimizer.zero_grad()
            module.training_step(collate(samples[start : start + B]), 0).backward()
            optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("name", CUT)
def test_cut_it_comes_to_the_same(name: str) -> None:
    images, collate, rows = CUT[name]
    expected = plain(collate, images, rows)
    for accumulation in (1, 2, 3):
        found = fitted(collate, images, rows, accumulation)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


class Graph:
    def __init__(self, x: Tensor) -> None:
        self.x = x


REFUSED: dict[str, Collate] = {
    "time-major": lambda b: (torch.stack([x.flatten(1).T for x, _ in b], 1), torch.ones(16, len(b))),
    "time-major, as long as the last batch": time_major,
    "time-major, beside labels": lambda b: (time_major(b), numbers(y for _, y in b)),
    "compressed rows": rows_and(lambda x, y: x.to_sparse_csr()),
    "packed": lambda b: nn.utils.rnn.pack_sequence([x[:, 0].T for x, _ in b]),
    "an object that holds tensors": rows_and(lambda x, y: (Graph(x), y)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certain_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"cut_batch\(batch, sizes\)"):
        fitted(REFUSED[name], SAME, lambda batch: 1 / 0, 2)


def test_a_list_that_happens_to_be_as_long_as_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can tell class names from one text a sample, if there are as many; so what was done is said, once."""
    collate = rows_and(lambda x, y: {"x": x, "y": y, "names": CLASSES})
    with caplog.at_level(logging.WARNING, "metronome.training"):
        fitted(collate, SAME, lambda batch: (batch["x"], batch["y"]), 2)
    said = [record.getMessage() for record in caplog.records if "cut_batch" in record.getMessage()]
    assert len(said) == 1
    assert "a list of 6 values is cut as one value a sample" in said[0]


def test_what_the_default_collate_joins_is_certain(caplog: pytest.LogCaptureFixture) -> None:
    """Of pairs and names, in batches of two, too."""
    samples = [((x.mean((1, 2)), x.amax((1, 2))), CLASSES[y]) for x, y in zip(SAME, LABELS, strict=True)]

    def rows(batch: Any) -> Any:
        (means, largest), names = batch
        return means + largest, lengths(names)

    module = Module(rows)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    with caplog.at_level(logging.WARNING, "metronome.training"):
        loader = DataLoader(samples, batch_size=2)  # pyright: ignore
        Trainer(max_epochs=1, accumulate_grad_batches=2, **quiet).fit(module, loader)
    assert not [record for record in caplog.records if "cut_batch" in record.getMessage()]
