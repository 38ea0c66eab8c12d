"""Text: what a batch is, and that a step is the same however its batch of unequal lengths is cut."""

from functools import cache, partial
from itertools import count
from math import ceil
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from commands import Commands
from jobs import SEED, fit, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metronome.data import Splits
from metronome.models.schedulers import constant
from metronome.training.batches.seeds import epoch_order
from project.data import Text
from project.models import LanguageModel, Transformer

N, BATCH, EPOCHS, LENGTH = 45, 16, 2, 24


class Few(Text):
    """The first documents of each split."""

    def load(self) -> Splits:
        train, val, _ = super().load()
        return Splits(train=train[:N], val=val[:7])


def network() -> nn.Module:
    torch.manual_seed(1)
    return Transformer(128, LENGTH, width=16, depth=2, num_heads=2).double()


def test_documents() -> None:
    """Each is a piece of the text, and there once; together they have all its characters."""
    splits = Text(max_length=64).splits
    documents = [bytes(document.tolist()).decode() for split in splits for document in split]
    assert len(set(documents)) == len(documents)
    assert max(map(len, documents)) == 63
    text = "".join(topics.values()).encode("ascii", "replace").decode()
    assert all(document in text for document in documents)
    assert set("".join(documents)) == set(text)
    assert len(splits.val) == len(splits.test) == len(documents) // 10


def test_a_batch() -> None:
    batch = Text().collate([torch.tensor([72, 105]), torch.tensor([33])])
    assert batch["input_ids"].tolist() == [[0, 72, 105], [0, 33, 0]]
    assert batch["labels"].tolist() == [[72, 105, 0], [33, 0, -100]]


def test_no_output_looks_ahead() -> None:
    net, tokens = network(), torch.randint(128, (3, LENGTH))
    changed = tokens.clone()
    changed[:, 10:] = 7
    assert net(tokens).shape == (3, LENGTH, 128)
    for mode in (True, False):
        net.train(mode)
        assert torch.allclose(net(tokens)[:, :10], net(changed)[:, :10], rtol=0, atol=1e-13)
        assert torch.allclose(net(tokens)[:, :10], net(tokens[:, :10]), rtol=0, atol=1e-13)
        assert not torch.allclose(net(tokens)[:, 10:], net(changed)[:, 10:])


class Loop(NamedTuple):
    weights: Tensor
    train_loss: float  # of the last epoch, a token
    val_loss: float


@cache
def plain_loop(optimizer: Any) -> Loop:
    """Whole batches, and in each its documents one by one, without padding."""
    net, splits = network(), Few(max_length=LENGTH).splits

    def total_loss(documents: list[Tensor]) -> tuple[Tensor, int]:
        total, divisor = torch.zeros((), dtype=torch.float64), 0
        for document in documents:
            tokens = torch.tensor([0, *document.tolist(), 0])
            total = total + cross_entropy(net(tokens[None, :-1])[0], tokens[1:], reduction="sum")
            divisor += len(tokens) - 1
        return total, divisor

    update, train_loss = optimizer(net.parameters()), 0.0
    for epoch in range(EPOCHS):
        totals, order = [], epoch_order(SEED, epoch, N).tolist()
        for start in range(0, N, BATCH):
            update.zero_grad()
            total, divisor = total_loss([splits.train[i] for i in order[start : start + BATCH]])
            (total / divisor).backward()
            update.step()
            totals.append((total.item(), divisor))
        train_loss = sum(total for total, _ in totals) / sum(divisor for _, divisor in totals)
    total, divisor = total_loss(list(splits.val))
    return Loop(weights(net), train_loss, total.item() / divisor)


SGD = partial(torch.optim.SGD, lr=0.3, momentum=0.9)
ADAMW = partial(torch.optim.AdamW, lr=0.003)


@pytest.mark.parametrize(
    "optimizer", [pytest.param(SGD, id="sgd"), pytest.param(ADAMW, id="adamw", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("devices", "accumulation"),
    [(1, 7), (2, 3), *(pytest.param(*layout, marks=pytest.mark.slow) for layout in ((1, 1), (1, 3), (2, 1)))],
)
def test_cut_in_any_way(
    devices: int, accumulation: int, optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count()  # a second goes by each time it is looked at: once a step
    monkeypatch.setattr("project.models.language.monotonic", lambda: next(clock))

    class Keeps(L.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            torch.save((weights(module), metrics), tmp_path / f"{trainer.global_rank}.pt")

    fit(
        model=LanguageModel(network(), optimizer, constant),
        data=Few(max_length=LENGTH, batch_size=BATCH),
        max_epochs=EPOCHS,
        accumulate_grad_batches=accumulation,
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        callbacks=[Keeps()],
    )
    expected, tokens = plain_loop(optimizer), sum(len(document) + 1 for document in Few(max_length=LENGTH).splits.train)
    for rank in range(devices):
        found, metrics = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, expected.weights, rtol=1e-12, atol=1e-14)
        assert metrics["train/loss_epoch"] == pytest.approx(expected.train_loss, rel=1e-12)
        assert metrics["val/loss"] == pytest.approx(expected.val_loss, rel=1e-12)
        assert metrics["train/tokens_per_second"] == pytest.approx(tokens / ceil(N / BATCH), rel=1e-6)


def test_a_run(commands: Commands) -> None:
    """It learns: a network that knows nothing has a loss of log(128) = 4.85 a token."""
    options = [
        "data.max_length=32",
        "data.eval_batch_size=256",
        "budget=40steps",
        "trainer=cpu",
        "logger=none",
        "num_threads=1",
    ]
    done = commands("train", "+experiment=text", *options)
    assert (done.code, done.err) == (0, "")
    assert done.result["progress"]["samples"] == 40 * 16
    assert done.result["metrics"]["test/loss"] < 3.4
