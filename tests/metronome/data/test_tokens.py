"""Files of tokens: every token predicted once an epoch, from those before it; documents packed, or one a sample."""

import os
import pickle
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch

from metronome.data import Tokens
from metronome.data.stored import token_files
from metronome.data.stored.token_files import TokenFile, document_starts
from metronome.units import InputError

END, KINDS, LENGTH = 0, 50, 8


def text(lengths: list[int], seed: int = 0) -> np.ndarray:
    """Documents of so many tokens, an end behind each."""
    draw = np.random.default_rng(seed)
    return np.concatenate([np.append(draw.integers(1, KINDS, length), END) for length in lengths])


LENGTHS = [3, 20, 0, 7, 8, 15, 1, 40]
TEXT = text(LENGTHS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TEXT.astype("u2").tofile(tmp_path / "train.bin")
    text([5, 9], 1).astype("u2").tofile(tmp_path / "val.bin")
    return tmp_path


def tokens(folder: Path, documents: str = "packed", **options: Any) -> Tokens:
    given = {"num_tokens": KINDS, "max_length": LENGTH, "end_token": END, "batch_size": 3}
    data = Tokens(folder, documents=documents, **{**given, **options})
    data.prepare_data()
    data.trainer = jobs.trainer()
    return data


def pairs(batch: dict[str, torch.Tensor]) -> list[tuple[list[int], int]]:
    """Each token that is predicted, with what it is predicted from in its sample."""
    found = []
    for inputs, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        found += [(inputs[: i + 1], label) for i, label in enumerate(labels) if label != -100]
    return found


def epoch(data: Tokens, number: int = 0) -> list[tuple[list[int], int]]:
    loader = data.train_dataloader()
    loader.batch_sampler.position = number, 0  # pyright: ignore
    return [pair for batch in loader for pair in pairs(batch)]


@pytest.mark.parametrize("size", [2, 9, 10, len(TEXT)])
def test_packed_each_token_but_the_first_is_predicted_once(size: int, folder: Path) -> None:
    TEXT[:size].astype("u2").tofile(folder / "train.bin")
    data = tokens(folder, batch_size=1)
    assert len(data.splits.train) == data.known_num_samples() == -(-(size - 1) // LENGTH)
    expected = [
        (TEXT[i - (i - 1) % LENGTH - 1 : i].tolist(), int(TEXT[i])) for i in range(1, size)
    ]  # from the beginning of its window on
    data.shuffle = False
    assert epoch(data) == expected
    data = tokens(folder, batch_size=1)
    for number in (0, 1):
        assert sorted(epoch(data, number)) == sorted(expected)
    assert size < 30 or epoch(data, 0) != epoch(data, 1)


@pytest.mark.parametrize("at_once", [5, 10**6])
@pytest.mark.parametrize("ends", [True, False], ids=["ends", "does not end"])
def test_padded_each_token_is_predicted_once(
    ends: bool, at_once: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its own document alone; of one longer than a sample, from its piece of it and the token before."""
    monkeypatch.setattr(token_files, "_AT_ONCE", at_once)
    given = TEXT if ends else TEXT[:-1]
    given.astype("u2").tofile(folder / "train.bin")
    documents = np.split(given, np.flatnonzero(given[:-1] == END) + 1)
    expected = []
    for document in documents:
        whole = [END, *document.tolist()]
        for i in range(1, len(whole)):
            start = (i - 1) // LENGTH * LENGTH
            expected.append((whole[start:i], whole[i]))
    data = tokens(folder, "padded", shuffle=False)
    assert epoch(data) == expected
    assert len(expected) == len(given)
    alone = tokens(folder, "padded", shuffle=False, batch_size=1).train_dataloader()
    assert {batch["labels"].shape[1] for batch in alone} == {1, 2, 4, 5, 8}
    assert sorted(epoch(tokens(folder, "padded"))) == sorted(expected)


@pytest.mark.parametrize("documents", ["packed", "padded"])
def test_what_is_sent_to_a_worker_are_names(documents: str, folder: Path) -> None:
    train = tokens(folder, documents).splits.train
    sent = pickle.dumps(train)
    assert len(sent) < 1000
    rows = torch.arange(4)
    for name, part in train[rows].items():
        assert torch.equal(part, pickle.loads(sent)[rows][name])


def test_a_file_of_uint32(folder: Path) -> None:
    wide = TEXT.astype("u4") + 70_000
    wide.tofile(folder / "train.bin")
    (folder / "val.bin").unlink()
    data = tokens(folder, num_tokens=70_050, dtype="uint32", shuffle=False)
    assert [label for _, label in epoch(data)] == wide[1:].tolist()
    assert data.splits.val is None


def test_where_documents_start_is_worked_out_once_and_again_for_another_file(folder: Path) -> None:
    data = tokens(folder, "padded")
    made = folder / "train.documents_0_8.int64"
    first, size = made.stat().st_mtime_ns, len(data.splits.train)
    tokens(folder, "padded")
    assert made.stat().st_mtime_ns == first
    (folder / "train.bin").write_bytes(text([2, 2]).astype("u2").tobytes())
    os.utime(folder / "train.bin", ns=(first + 10**9, first + 10**9))
    assert len(tokens(folder, "padded").splits.train) == 2 < size
    assert not list(folder.glob("*.part"))
    os.utime(folder / "train.bin", ns=(0, 0))
    (folder / "train.bin").write_bytes(TEXT.astype("u2").tobytes())
    os.utime(folder / "train.bin", ns=(0, 0))
    with pytest.raises(InputError, match="is of another file of tokens; delete it"):
        tokens(folder, "padded")


def refused(what: Any) -> str:
    with pytest.raises(InputError) as error:
        what()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_in_one_line(folder: Path) -> None:
    assert "is neither packed nor padded" in refused(lambda: tokens(folder, "padd"))
    assert "is neither uint16 nor uint32" in refused(lambda: tokens(folder, dtype="int8"))
    assert "needs data.end_token" in refused(lambda: tokens(folder, "padded", end_token=None))
    assert "is none of the tokens below data.num_tokens=50" in refused(lambda: tokens(folder, end_token=50))
    assert "has no train.bin; put files of tokens there" in refused(lambda: tokens(folder / "x").splits)
    assert "allows those below" in refused(lambda: epoch(tokens(folder, num_tokens=40)))
    for content, words in ((b"abc", "is cut short, or of another type: its 3 bytes"), (b"ab", "has 1 tokens")):
        (folder / "val.bin").write_bytes(content)
        assert words in refused(lambda: tokens(folder).splits)


def test_very_many_tokens_take_no_memory(tmp_path: Path) -> None:
    """A file of 2 * 10**9 tokens that takes no room: how many samples it has is known at once, and any are read."""
    with (tmp_path / "train.bin").open("wb") as file:
        file.truncate(4 * 10**9)
    data = tokens(tmp_path, max_length=1024)
    assert data.known_num_samples() == -(-(2 * 10**9 - 1) // 1024)
    assert next(iter(data.train_dataloader()))["labels"].tolist() == [[0] * 1024] * 3


def test_starts_are_those_of_the_samples(folder: Path) -> None:
    starts = document_starts(TokenFile(folder / "train.bin", "uint16", KINDS), END, LENGTH)
    assert starts.tolist() == [0, 4, 12, 20, 25, 26, 34, 42, 43, 51, 59, 61, 69, 77, 85, 93, 101, 102][: len(starts)]
