"""Python's manual as files of tokens: what is in them, and that a step is the same however its batch is cut."""

from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from commands import Commands
from jobs import SEED, fit, weights
from torch import nn
from torch.nn.functional import cross_entropy

from metronome.models.schedulers import constant
from metronome.training.batches.seeds import epoch_order
from project.data import Manual
from project.models import LanguageModel, Transformer

LENGTH, BATCH, TOKENS = 24, 7, 500


def network() -> nn.Module:
    torch.manual_seed(1)
    return Transformer(128, LENGTH, width=16, depth=1, num_heads=2).double()


def test_documents(tmp_path: Path) -> None:
    """Each paragraph is there once, and nothing else."""
    data = Manual(folder=str(tmp_path))
    data.prepare_data()
    texts = [(tmp_path / f"{split}.bin").read_bytes()[::2].decode() for split in ("train", "val", "test")]
    paragraphs = [part for text in texts for document in text.split("\0")[:-1] for part in document.split("\n\n")]
    expected = {part.encode("ascii", "replace").decode() for text in topics.values() for part in text.split("\n\n")}
    assert set(paragraphs) == expected
    assert all(text.endswith("\0") for text in texts)


@pytest.mark.parametrize("documents", ["packed", "padded"])
@pytest.mark.parametrize(("devices", "accumulation"), [(1, 3), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_cut_in_any_way(documents: str, devices: int, accumulation: int, tmp_path: Path) -> None:
    """As samples one by one, without padding."""
    Manual(folder=str(tmp_path)).prepare_data()
    file = tmp_path / "train.bin"
    given = file.read_bytes()[: 2 * TOKENS]
    file.write_bytes(given)
    data = Manual(folder=str(tmp_path), max_length=LENGTH, documents=documents, batch_size=BATCH)
    data.prepare_data()
    train, net, start = data.splits.train, network(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for batch in torch.from_numpy(epoch_order(SEED, 0, len(train))).split(BATCH):
        optimizer.zero_grad()
        total, count = torch.zeros((), dtype=torch.float64), 0
        for row in batch:
            sample = {name: part[0] for name, part in train[row[None]].items()}
            counts = int((sample["labels"] != -100).sum())
            logits = net(sample["input_ids"][None, :counts])[0]
            total = total + cross_entropy(logits, sample["labels"][:counts], reduction="sum")
            count += counts
        (total / count).backward()
        optimizer.step()
        start.append(count)
    assert sum(start) == TOKENS - (documents == "packed")

    def keep(trainer: Any, module: Any) -> None:
        torch.save(weights(module), tmp_path / f"{trainer.global_rank}.pt")

    model = LanguageModel(network(), partial(torch.optim.SGD, lr=0.3), constant)
    model.on_train_end = lambda: keep(model.trainer, model)  # pyright: ignore
    fit(
        model=model, data=data, max_epochs=1, accumulate_grad_batches=accumulation, devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto", limit_val_batches=1,
    )  # fmt: skip
    for rank in range(devices):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), weights(net), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_a_run(commands: Commands, tmp_path: Path) -> None:
    """It learns: a network that knows nothing has a loss of log(128) = 4.85 a token. Workers change nothing."""
    options = [f"data.folder={tmp_path}", "data.max_length=32", "budget=40steps", "trainer=cpu", "logger=none",
               "num_threads=1"]  # fmt: skip
    for more in ([], ["data.num_workers=2"]):
        done = commands("train", "+experiment=tokens", *options, *more)
        assert (done.code, done.err) == (0, "")
    assert len(done.results) == 2
    for result in done.results:
        assert result["progress"]["samples"] == 40 * 16
        assert result["metrics"]["test/loss"] < 3.4
    assert len({result["weights_sha256"] for result in done.results}) == 1
