"""Mixtures of what is stored, in memory, and padded: the batches that the same rows in memory make."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import X, Y, fit, weights

from metronome.data import DataModule, Mixture, MixtureModule, Splits, Tokens
from metronome.data.mixtures.reading import reader_of
from metronome.data.mixtures.sets import Together
from metronome.training.batches.order import Share
from metronome.units import InputError

A, B, C = slice(0, 20), slice(20, 97), slice(97, 157)


class Given(DataModule):
    """The training split that is given; a batch may be a dict."""

    def __init__(self, train: Any, **options: Any) -> None:
        super().__init__(**options)
        self.train = train

    def load(self) -> Splits:
        return Splits(self.train, self.train)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (batch["x"], batch["y"]) if isinstance(batch, dict) else batch


def in_memory(part: slice) -> dict[str, Any]:
    return {"x": X[part], "y": Y[part]}


def mapped_rows(folder: Path, part: slice, name: str) -> dict[str, Any]:
    for column, values in in_memory(part).items():
        np.save(folder / f"{name}_{column}.npy", values.numpy())
    return {column: np.load(folder / f"{name}_{column}.npy", mmap_mode="r") for column in "yx"}


def hugging_face(part: slice) -> Any:
    package = pytest.importorskip("datasets")
    return package.Dataset.from_dict({"y": Y[part].numpy(), "x": X[part].numpy()})


@pytest.mark.parametrize("kind", ["mapped", "hugging face"])
def test_the_weights_of_the_same_mixture_in_memory(kind: str, tmp_path: Path) -> None:
    def of(b: Any, c: Any) -> Any:
        mixture = Mixture({"a": in_memory(A), "b": b, "c": c}, {"a": 1, "b": 3, "c": 2})
        return fit(data=Given(mixture, batch_size=32), max_epochs=2, accumulate_grad_batches=3)

    stored = mapped_rows(tmp_path, B, "b"), hugging_face(C) if kind != "mapped" else mapped_rows(tmp_path, C, "c")
    (model, run), (expected, other) = of(*stored), of(in_memory(B), in_memory(C))
    assert torch.equal(weights(model), weights(expected))
    assert run.counters == other.counters


def test_sets_of_hugging_face_with_a_collate_are_read_as_samples() -> None:
    """It is given the dicts, text among them, as without a mixture."""

    def collate(samples: list[Any]) -> Any:
        return {name: torch.tensor([s[name] for s in samples], dtype=torch.float64) for name in "xy"}

    def of(sets: dict[str, Any]) -> torch.Tensor:
        data = Given(Mixture(sets, {"a": 1, "b": 3}), batch_size=32)
        data.collate = collate
        return weights(fit(data=data, max_epochs=1)[0])

    text = {"a": hugging_face(A).add_column("text", ["a"] * 20), "b": hugging_face(B).add_column("text", ["b"] * 77)}
    lists = {name: [{"x": X[i].tolist(), "y": Y[i].tolist()} for i in range(157)[part]] for name, part in
             (("a", A), ("b", B))}  # fmt: skip
    assert torch.equal(of(text), of(lists))
    with pytest.raises(InputError, match="column 'text' of a data set must hold numbers"):
        fit(data=Given(Mixture({**text}), batch_size=32), max_epochs=1)


def tokens(folder: Path, lengths: list[int], **options: Any) -> Tokens:
    folder.mkdir()
    documents = [np.arange(length, dtype=np.uint16) for length in lengths]
    np.roll(np.concatenate(documents), -1).tofile(folder / "train.bin")
    return Tokens(folder, num_tokens=30, max_length=8, end_token=0, **options)


def test_documents_of_several_files_are_padded_together(tmp_path: Path) -> None:
    few = tokens(tmp_path / "few", [3, 2], documents="padded")
    many = tokens(tmp_path / "many", [7, 5, 4], documents="padded")
    data = MixtureModule({"few": few, "many": many}, {"few": 2, "many": 3}, batch_size=5)
    reader = reader_of(Together(data.splits.train.sets), None, 0)
    batch = reader.read(Share(0, np.array([2, 0, 1, 3])))
    assert batch["input_ids"].tolist() == [
        [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 0, 0],
    ]  # fmt: skip
    assert batch["labels"].tolist() == [
        [1, 2, 3, 4, 5, 6, 0], [1, 2, 0, -100, -100, -100, -100], [1, 0, *[-100] * 5], [1, 2, 3, 4, 0, -100, -100],
    ]  # fmt: skip


def test_what_is_stored_and_does_not_go_together(tmp_path: Path) -> None:
    rows = mapped_rows(tmp_path, B, "b")
    with pytest.raises(InputError, match=r"sets a and b do not make a batch: float64 of shape .10,. and .* .3,."):
        Mixture({"a": in_memory(A), "b": rows | {"x": rows["x"][:, :3]}})
    with pytest.raises(InputError, match="sets a and b are not made of the same parts"):
        Mixture({"a": (X, Y), "b": rows})
