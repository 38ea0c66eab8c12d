"""A batch weighs what its loss divides by: cut in any way, the step is that of the whole batch in a plain loop."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import FEATURES, SEED, fit, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metronome.data import DataModule, Splits
from metronome.models import Classifier
from metronome.training.batches.seeds import epoch_order
from metronome.units import InputError

N, BATCH, EPOCHS, CLASSES, LENGTH, IGNORED = 131, 32, 3, 4, 7, -100
CLASS_WEIGHTS = [0.3, 1.0, 2.7, 7.1]

_generator = torch.Generator().manual_seed(11)
X = torch.randn(N, FEATURES, generator=_generator, dtype=torch.float64)
LABELS = torch.randint(CLASSES, (N,), generator=_generator)
SOME = torch.where(torch.rand(N, generator=_generator) < 0.6, IGNORED, LABELS)  # with k = 16 some pieces have none
SEQUENCES = torch.randn(N, LENGTH, FEATURES, generator=_generator, dtype=torch.float64)
LENGTHS = torch.randint(1, LENGTH + 1, (N,), generator=_generator)
TOKENS = torch.randint(CLASSES, (N, LENGTH), generator=_generator)
PADDED = torch.where(torch.arange(LENGTH) < LENGTHS[:, None], TOKENS, IGNORED)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 12), nn.Tanh(), nn.Linear(12, CLASSES)).double()


class Data(DataModule):
    def __init__(self, columns: tuple[Tensor, Tensor], **options: Any) -> None:
        super().__init__(batch_size=BATCH, **options)
        self.columns = columns

    def load(self) -> Splits:
        return Splits(train=self.columns, val=self.columns)


class Own(L.LightningModule):
    """A loss that is a mean over something else than samples, or a sum; logged in training and in validation."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network(), kind

    def loss(self, batch: Any) -> Tensor:
        x, labels = batch
        if self.kind == "by hand":  # whose own gradient of nothing is no number
            counted = labels != IGNORED
            each = cross_entropy(self.network(x).flatten(0, -2), labels.flatten(), reduction="none")
            return (each * counted.flatten()).sum() / counted.sum()
        reduction = "sum" if self.kind == "sum" else "mean"
        return cross_entropy(self.network(x).flatten(0, -2), labels.flatten(), reduction=reduction)

    def loss_weight(self, batch: Any) -> Any:
        return None if self.kind == "sum" else (batch[1] != IGNORED).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01 if self.kind == "sum" else 0.5, momentum=0.9)


class Ours(Classifier):
    """The library's own, in float64."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            CLASSES, network=network(), optimizer=partial(torch.optim.SGD, lr=0.5, momentum=0.9), **options
        )


JOBS: dict[str, Any] = {
    "class weights": (lambda: Ours(class_weights=CLASS_WEIGHTS), (X, LABELS)),
    "ignored labels": (lambda: Ours(ignore_index=IGNORED), (X, SOME)),
    "both": (lambda: Ours(class_weights=CLASS_WEIGHTS, ignore_index=IGNORED), (X, SOME)),
    "smoothed too": (
        lambda: Ours(class_weights=CLASS_WEIGHTS, ignore_index=IGNORED, label_smoothing=0.1), (X, SOME)
    ),
    "tokens": (lambda: Own("mean"), (SEQUENCES, PADDED)),
    "tokens, a mean by hand": (lambda: Own("by hand"), (X, SOME)),
    "sum": (lambda: Own("sum"), (SEQUENCES, PADDED)),
}  # fmt: skip
KIND = dict.fromkeys(JOBS, "mean") | {"sum": "sum"}


@cache
def plain_loop(job: str) -> tuple[Tensor, list[float], float]:
    """The whole batch at once, without Lightning: weights, the loss of each step, that of the validation at the end."""
    net, (x, labels) = network(), JOBS[job][1]
    options: dict[str, Any] = {"reduction": KIND[job]}
    if job in ("class weights", "both", "smoothed too"):
        options["weight"] = torch.tensor(CLASS_WEIGHTS, dtype=torch.float64)
    smoothing: dict[str, Any] = {"label_smoothing": 0.1} if job == "smoothed too" else {}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01 if job == "sum" else 0.5, momentum=0.9)
    losses = []
    for epoch in range(EPOCHS):
        for batch in torch.from_numpy(epoch_order(SEED, epoch, N)).split(BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(net(x[batch]).flatten(0, -2), labels[batch].flatten(), **options, **smoothing)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with torch.no_grad():
        return weights(net), losses, cross_entropy(net(x).flatten(0, -2), labels.flatten(), **options).item()


def run(job: str, **flags: Any) -> Any:
    make, columns = JOBS[job]
    return fit(model=make(), data=Data(columns), max_epochs=EPOCHS, **flags)


@pytest.mark.parametrize("accumulation", [1, 3, 4, 16])
@pytest.mark.parametrize("job", JOBS)
def test_cut_in_any_way(job: str, accumulation: int) -> None:
    losses: list[float] = []

    class Keeps(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

    model, trainer = run(job, accumulate_grad_batches=accumulation, callbacks=[Keeps()])
    expected, expected_losses, val_loss = plain_loop(job)
    torch.testing.assert_close(weights(model), expected, rtol=1e-12, atol=1e-14)
    assert losses == pytest.approx(expected_losses, rel=1e-12)
    name = "train/loss_step" if isinstance(model, Own) else "train/loss"
    if job != "sum":  # a logged value is a mean, unless `self.log` is told otherwise
        assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(val_loss, rel=1e-6)
        assert float(trainer.callback_metrics[name]) == pytest.approx(losses[-1], rel=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("job", JOBS)
def test_on_a_gpu(job: str) -> None:
    """Where the weights stay on the device."""
    model, _ = run(job, accumulate_grad_batches=4, accelerator="gpu", deterministic="warn")
    torch.testing.assert_close(weights(model).cpu(), plain_loop(job)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("devices", "accumulation"), [(2, 1), (2, 4), (3, 3), (3, 11)])
@pytest.mark.parametrize("job", ["both", "tokens, a mean by hand", "sum"])
def test_on_several_devices(job: str, devices: int, accumulation: int, tmp_path: Path) -> None:
    class Keeps(L.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            logged = float(trainer.callback_metrics["val/loss"])
            torch.save((weights(module), logged), tmp_path / f"{trainer.global_rank}.pt")

    run(job, accumulate_grad_batches=accumulation, devices=devices, strategy="ddp_fork", callbacks=[Keeps()])
    expected, _, val_loss = plain_loop(job)
    for rank in range(devices):
        found, logged = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        if job != "sum":
            assert logged == pytest.approx(val_loss, rel=1e-6)


def test_weights_that_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which would be waited for: a micro-batch that counts nothing, whose loss is no number."""
    monkeypatch.setattr("metronome.training.step.weights._is_far", lambda number: True)
    model, trainer = run("both", accumulate_grad_batches=16)
    expected, losses, val_loss = plain_loop("both")
    torch.testing.assert_close(weights(model), expected, rtol=1e-12, atol=1e-14)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(val_loss, rel=1e-6)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(losses[-1], rel=1e-6)


def test_a_batch_without_any_label() -> None:
    """Nothing is learnt from it, and nothing is lost."""
    model, _ = fit(model=Ours(ignore_index=IGNORED), data=Data((X, torch.full_like(LABELS, IGNORED))), max_epochs=1)
    assert torch.equal(weights(model), weights(network()))


def test_accuracy_counts_samples_with_a_label() -> None:
    model, trainer = run("both", accumulate_grad_batches=3)
    with torch.no_grad():
        right = (model(X).argmax(1) == SOME)[SOME != IGNORED]
    assert float(trainer.callback_metrics["val/acc"]) == pytest.approx(right.double().mean().item(), rel=1e-6)


@pytest.mark.parametrize("answer", [-1, float("nan"), "many", torch.ones(3)])
def test_a_weight_that_is_none(answer: Any) -> None:
    model = Own("mean")
    model.loss_weight = lambda batch: answer  # pyright: ignore
    with pytest.raises(InputError, match="loss_weight"):
        fit(model=model, data=Data((SEQUENCES, PADDED)), max_epochs=1)


@pytest.mark.parametrize("given", [[1, 2, 3], "abcd", [1, 2, 3, -1], [1, 2, 3, float("nan")], 4])
def test_class_weights_that_are_none(given: Any) -> None:
    with pytest.raises(InputError, match=r"model.class_weights=.* must be 4 numbers"):
        Ours(class_weights=given)


@pytest.mark.parametrize("given", [True, "none", 1.5])
def test_an_ignored_label_that_is_none(given: Any) -> None:
    with pytest.raises(InputError, match=r"model\.ignore_index="):
        Ours(ignore_index=given)
