"""What is not exact is said at the first step that is cut, in one line, and what is exact is not."""

import logging
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from metronome.training import Trainer

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(64) % 3
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip
WEIGHT = torch.tensor([1.0, 2.0, 3.0])


class Module(L.LightningModule):
    def __init__(self, loss: Any = F.cross_entropy, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.loss = network or nn.Linear(6, 3), loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Says(Module):
    def loss_weight(self, batch: Any) -> Tensor:
        return WEIGHT[batch[1]].sum()


def said(
    caplog: pytest.LogCaptureFixture, module: L.LightningModule, k: int = 4, level: int = logging.WARNING, **flags: Any
) -> list[str]:
    trainer = Trainer(**QUIET, devices=1, max_epochs=2, accumulate_grad_batches=k, **flags)
    caplog.set_level(level, "metronome.training")
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=32))
    lines = [record.getMessage() for record in caplog.records if "the batch is cut" in record.getMessage()]
    assert trainer.fit_loop.first_look.points.around_passes is not trainer.fit_loop.first_look
    return lines


def contrastive(given: Tensor, _: Tensor) -> Tensor:
    unit = F.normalize(given)
    return F.cross_entropy(unit @ unit.T, torch.arange(len(unit)))


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT), "cross_entropy has class weights"),
        (lambda p, y: F.nll_loss(p.log_softmax(1), y, WEIGHT), "nll_loss has class weights"),
        (lambda p, y: F.cross_entropy(p, torch.where(y == 0, -100, y)), "leaves out labels of -100"),
        (lambda p, y: F.cross_entropy(p, y, ignore_index=2), "leaves out labels of 2"),
        (lambda p, y: F.mse_loss(p, F.one_hot(y, 3).float(), reduction="sum"), "mse_loss is a sum"),
        (lambda p, y: F.cross_entropy(p[y > 0], y[y > 0]), "mean over rows, 5 of 8 samples"),
        (contrastive, "matmul compares samples, 8 x 8"),
        (lambda p, y: torch.cdist(p, p).mean(), "cdist compares samples"),
        (lambda p, y: F.cross_entropy(p, y) - p.std(0).mean(), "std is taken over samples"),
        (lambda p, y: F.cross_entropy(p / p.std(), y), "std is taken over samples"),
    ],
)  # fmt: skip
def test_a_loss_that_is_no_mean_over_samples(loss: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    (line,) = said(caplog, Module(loss))  # once, in two epochs of two steps
    assert line.startswith("the batch is cut in 4, and the loss of Module is no mean over samples (")
    assert why in line
    assert ("loss_weight(batch)" in line) == ("samples, 8" not in line and "cdist" not in line and "std" not in line)


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda p, y: F.cross_entropy(p, y, ignore_index=7),
        lambda p, y: F.mse_loss(p, F.one_hot(y, 3).float()),
        lambda p, y: F.binary_cross_entropy_with_logits(p, F.one_hot(y, 3).float(), pos_weight=WEIGHT),
        lambda p, y: F.kl_div(p.log_softmax(1), F.one_hot(y, 3).float(), reduction="batchmean"),
        lambda p, y: F.cross_entropy(p, y, reduction="none").mean(),
        lambda p, y: F.cross_entropy(torch.stack([p, p], 2), torch.stack([y, y], 1)),
        lambda p, y: F.cross_entropy(p / p.std(1, keepdim=True), y),
    ],
)
def test_nothing_is_said_of_a_mean_over_samples(loss: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, Module(loss)) == []


def test_nothing_is_said_where_the_module_says_what_it_divides_by(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, Says(nn.CrossEntropyLoss(weight=WEIGHT))) == []


def test_nothing_is_said_where_nothing_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    assert said(caplog, Module(contrastive, network), k=1) == []


def test_layers_that_see_a_piece(caplog: pytest.LogCaptureFixture) -> None:
    layers = [nn.Linear(6, 6), nn.BatchNorm1d(6), nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3))]
    norm, spectral = said(caplog, Module(network=nn.Sequential(*layers)))
    assert "BatchNorm (network.1) goes by each piece alone" in norm
    assert "spectral norm (network.2)" in spectral


def test_batch_norm_that_does_not_learn_its_statistics(caplog: pytest.LogCaptureFixture) -> None:
    class Frozen(Module):
        def on_train_epoch_start(self) -> None:
            self.network[1].eval()  # pyright: ignore

    network = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    assert said(caplog, Frozen(network=network)) == []


def test_gradients_changed_after_each_backward_pass(caplog: pytest.LogCaptureFixture) -> None:
    class Clips(Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            nn.utils.clip_grad_norm_(pl_module.parameters(), 0.1)

    (line,) = said(caplog, Module(), callbacks=[Clips()])
    assert "on_after_backward of Clips is called for each piece" in line


class Teacher(Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(6, 3).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.teacher.weight.lerp_(self.network.weight, 0.1)  # pyright: ignore
        return super().training_step(batch, batch_idx)


class RunningMean(Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * batch[0].mean(0)
        return super().training_step((batch[0] - self.mean, batch[1]), batch_idx)


class Recurrent(Module):
    hidden: Any = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] if self.hidden is None else batch[0] + self.hidden[0].mean()
        self.hidden = (x.detach(),)
        return super().training_step((x, batch[1]), batch_idx)


class Remembers(Module):
    """What it leaves is looked at after the step alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.last = batch[0].detach()
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (Teacher, "changes weights (teacher.weight) for each piece"),
        (RunningMean, "left for the piece before (mean)"),
        (Recurrent, "left for the piece before (hidden)"),
    ],
)
def test_what_is_left_for_the_next_piece(module: Any, what: str, caplog: pytest.LogCaptureFixture) -> None:
    line = " ".join(said(caplog, module()))
    assert what in line


class Measures(Module):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("acc", self.accuracy(self.network(batch[0]), batch[1]), on_epoch=True, on_step=False)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("module", [Module, Remembers, Measures])
def test_what_nobody_takes_up_is_no_state(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, module()) == []


@pytest.mark.parametrize(("p", "is_drawn"), [(0.5, True), (0.0, False)])
def test_random_numbers(p: float, is_drawn: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "metronome.training")
    layers = [nn.Linear(6, 6), nn.Dropout(p), nn.Linear(6, 3)]
    trainer = Trainer(**QUIET, devices=1, max_epochs=1, accumulate_grad_batches=4)
    trainer.fit(Module(network=nn.Sequential(*layers)), DataLoader(TensorDataset(X, Y), batch_size=32))
    assert sum("draws random numbers" in record.getMessage() for record in caplog.records) == is_drawn


def test_values_that_are_reduced_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    class Logs(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("mean", loss, on_step=False, on_epoch=True)
            self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
            return loss

    caplog.set_level(logging.INFO, "metronome.training")
    trainer = Trainer(**QUIET, devices=1, max_epochs=1, accumulate_grad_batches=4)
    trainer.fit(Logs(), DataLoader(TensorDataset(X, Y), batch_size=32))
    (line,) = [record.getMessage() for record in caplog.records if "reduced over pieces" in record.getMessage()]
    assert line.startswith("self.log('largest', reduce_fx=max): ")


def test_mixed_samples(caplog: pytest.LogCaptureFixture) -> None:
    def mixup(given: Tensor, labels: Tensor) -> Tensor:
        order = torch.randperm(len(given))
        return F.cross_entropy(0.7 * given + 0.3 * given[order], labels)

    (line,) = said(caplog, Module(mixup))
    assert "randperm mixes samples" in line


def test_two_devices(caplog: pytest.LogCaptureFixture) -> None:
    class Tells(Module):
        said: Any = None

        def on_train_end(self) -> None:
            words = "the batch is cut", "reads in order on one device"  # which a loader that is shuffled does not
            here = sorted(r.getMessage() for r in caplog.records if any(word in r.getMessage() for word in words))
            gathered: list[Any] = [None, None]
            torch.distributed.all_gather_object(gathered, here)
            assert not gathered[1], "the first device speaks for all"
            of_the_loss, of_the_loader = gathered[0]
            assert "cut in 2, and the loss of Tells" in of_the_loss
            assert "Lightning shuffles it on several" in of_the_loader

    caplog.set_level(logging.INFO, "metronome.training")
    trainer = Trainer(**QUIET, devices=2, strategy="ddp_fork", max_epochs=1)
    trainer.fit(Tells(nn.CrossEntropyLoss(weight=WEIGHT)), DataLoader(TensorDataset(X, Y), batch_size=16))


def test_weights_are_those_of_a_fit_that_nobody_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> Tensor:
        torch.manual_seed(0)
        module = Module(contrastive, nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3)))
        trainer = Trainer(**QUIET, devices=1, max_epochs=2, accumulate_grad_batches=4)
        trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=32))
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    looked_at = trained()
    monkeypatch.setattr("metronome.training.looks.first_look.FirstLook.begin", lambda self: None)
    assert torch.equal(trained(), looked_at)
