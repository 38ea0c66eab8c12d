"""A training waits for its device where values are logged, and nowhere in between: counted, on a CPU that plays it.

What a GPU would be waited for is known by what is called (tests/support/waits.py); what only a GPU shows, a copy from
ordinary memory say, is not seen here but in test_gpu.py.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from waits import Waits, far  # noqa: F401

from metronome.data import DataModule, Splits
from metronome.insight import LearningRate, NoiseScale, Progress
from metronome.insight.progress import callback as progress
from metronome.models import Classifier
from metronome.training import Checkpoint

pytestmark = pytest.mark.usefixtures("far")
FIRST, LAST = 3, 14  # steps that are watched; those before them set things up
WATCHED = list(range(FIRST, LAST + 1))
# A loader draws the seed of its workers, and reads it: in main memory, at the beginning of each validation.
OF_THE_LOADER = "aten::_local_scalar_dense in pytorch/utilities/combined_loader.py:_load_current_iterator"
TO_NUMBERS = "aten::_local_scalar_dense in fabric/utilities/apply_func.py:to_item"


class Small(L.LightningModule):
    def __init__(self, logs: bool = False, optimizer: Any = SGD, scheduler: Any = None) -> None:
        super().__init__()
        self.net, self.logs = jobs.network(dropout=0.1), logs
        self.make_optimizer, self.make_scheduler = optimizer, scheduler

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        if self.logs:
            self.log("loss", loss, prog_bar=True)
            self.log("loss/epoch", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", nn.functional.mse_loss(self.net(batch[0]), batch[1]), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters(), lr=0.01)
        if self.make_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }


class Watched(Callback):
    def __init__(self, waits: Waits) -> None:
        self.waits, self.noted = waits, waits.noted()

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        self.waits.step = trainer.global_step
        if trainer.global_step == FIRST:
            self.noted.__enter__()
        elif trainer.global_step == LAST + 1:
            self.noted.__exit__(None, None, None)
        # Adam counts its steps in main memory, unless it is fused.
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        unfused = [p for group in groups if not group.get("fused") for p in group["params"]]
        states = [optimizer.state[p] for optimizer in trainer.optimizers for p in unfused]
        self.waits.in_main_memory |= {state["step"].data_ptr() for state in states if "step" in state}


def waits_of(model: L.LightningModule, data: Any = None, **flags: Any) -> Waits:
    """Of 20 steps in an epoch."""
    waits = Waits()
    flags = {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 5, **flags}
    callbacks = [Watched(waits), *flags.pop("callbacks", [])]
    jobs.fit(model=model, data=data or jobs.Data(batch_size=8, on_device=True), callbacks=callbacks, **flags)
    assert waits.step == 19
    return waits


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        (Small, {}),
        (Small, {"accumulate_grad_batches": 3}),
        (Small, {"accumulate_grad_batches": "auto"}),
        (Small, {"gradient_clip_val": 0.01}),
        (Small, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
        (partial(Small, scheduler=partial(CosineAnnealingLR, T_max=100)), {}),
        (partial(Small, scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=100)), {}),
        (partial(Small, optimizer=partial(SGD, momentum=0.9, weight_decay=0.1)), {}),
        (partial(Small, optimizer=Adam), {}),
        (partial(Small, optimizer=partial(Adam, fused=True)), {"channels_last": True}),
        (partial(Small, logs=True), {}),
        (partial(Small, logs=True), {"accumulate_grad_batches": 3}),
        (partial(Small, logs=True), {"enable_progress_bar": True, "callbacks": [Progress()]}),
        (Small, {"callbacks": [NoiseScale(every=1)]}),
        (Small, {"callbacks": [NoiseScale(every=2)], "accumulate_grad_batches": 3}),
    ],
    ids=[
        "plain", "accumulation", "auto", "clipped by norm", "clipped by value", "cosine", "one cycle", "momentum",
        "adam", "fused", "self.log", "self.log, accumulation", "progress", "noise scale",
        "noise scale, accumulation",
    ],
)  # fmt: skip
def test_no_wait(model: Callable[..., Any], flags: dict[str, Any]) -> None:
    assert waits_of(model(), **flags).places() == {}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("every", [1, 5])
def test_only_at_log_points(every: int, accumulation: int, tmp_path: Path) -> None:
    """There once, for all values that go to the loggers."""
    flags: dict[str, Any] = {"accumulate_grad_batches": accumulation, "log_every_n_steps": every}
    waits = waits_of(Small(logs=True), logger=CSVLogger(tmp_path), callbacks=[LearningRate()], **flags)
    assert waits.steps() == [step for step in WATCHED if (step + 1) % every == 0]
    assert waits.places() == {TO_NUMBERS: len(waits.steps())}


def test_the_live_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows what has arrived: the loss of an earlier step."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0)
    assert waits_of(Small(logs=True), enable_progress_bar=True, callbacks=[Progress()]).places() == {}
    lines = [line for line in capsys.readouterr().out.split(progress.ERASE_LINE) if "step" in line]
    assert len(lines) == 20
    assert "loss" not in lines[0]
    assert all("  loss " in line for line in lines[5:])


class Labelled(DataModule):
    def load(self) -> Splits:
        x, y = torch.randn(157, 4, generator=torch.Generator().manual_seed(0)), torch.arange(157) % 3
        return Splits(train=(x, y), val=(x[:23], y[:23]))


@pytest.mark.parametrize("flags", [{}, {"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}])
def test_the_classifier(flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With its torchmetrics. It looks at labels in main memory alone; here none are."""
    far_batch = torch.zeros(3, 4), torch.full((3,), 99, device="meta")
    Classifier(3, network=nn.Linear(4, 3), optimizer=partial(SGD, lr=0.1)).check_batch(far_batch)
    monkeypatch.setattr(Classifier, "check_batch", lambda self, batch: None)
    model = Classifier(3, network=nn.Linear(4, 3), optimizer=partial(SGD, lr=0.1))
    assert waits_of(model, Labelled(batch_size=8, on_device=True), **flags).places() == {}


@pytest.mark.parametrize("classifier", [False, True])
def test_a_validation(classifier: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait in it either, however many batches it has: its values are read when it is logged."""
    monkeypatch.setattr(Classifier, "check_batch", lambda self, batch: None)
    model = Classifier(3, network=nn.Linear(4, 3), optimizer=partial(SGD, lr=0.1)) if classifier else Small(logs=True)
    data = Labelled if classifier else jobs.Data
    flags: dict[str, Any] = {"limit_val_batches": 1.0, "val_check_interval": 4}
    waits = waits_of(model, data(batch_size=8, eval_batch_size=2, on_device=True), **flags)
    assert waits.places() == {OF_THE_LOADER: 3}


def test_a_checkpoint(tmp_path: Path) -> None:
    """A save copies the weights to the disk, which no test needs to find; nothing else waits for it."""
    save = Checkpoint(tmp_path, "{step}", every_n_train_steps=4)
    waits = waits_of(Small(), callbacks=[save], enable_checkpointing=True)
    assert set(waits.steps()) <= {3, 7, 11}


# ---- waits that are a user's, or Lightning's ---------------------------------------------------------------------


def test_lightnings_progress_bar_waits_in_each_step() -> None:
    """It shows numbers in each of its refreshes; ours, in place of it by default, does not."""
    flags: dict[str, Any] = {"enable_progress_bar": True, "callbacks": [TQDMProgressBar()]}
    waits = waits_of(Small(logs=True), **flags)
    assert set(waits.steps()) >= set(WATCHED[:-1])
    assert set(waits.places()) == {TO_NUMBERS}


def test_a_number_that_is_logged_goes_to_the_device() -> None:
    """`self.log("x", 1.5)`: Lightning makes a tensor of it there, and ordinary memory is copied in step."""

    class Logs(Small):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("x", 1.5)
            return super().training_step(batch, batch_idx)

    assert waits_of(Logs()).places() == {"tensor in pytorch/core/module.py:__to_tensor": len(WATCHED)}


def test_to_skip_a_step_is_to_wait() -> None:
    """The update depends on the numbers."""
    waits = waits_of(Small(), on_nonfinite="skip")
    assert waits.steps() == WATCHED
    assert all("guards/nonfinite.py" in place for place in waits.places())


# ---- the count itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(), lambda x: float(x.sum()), lambda x: bool(x.any()), lambda x: x.cpu(),
        lambda x: x.tolist(), lambda x: x.numpy(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: x.unique(),
        lambda x: torch.equal(x, x), lambda x: f"{x.sum()}", lambda x: repr(x), lambda x: torch.tensor(1, device="cpu"),
        lambda x: x.masked_select(x > 0), lambda x: x.index_put_((x > 0,), x[0]), lambda x: torch.bincount(x.long()),
    ],
)  # fmt: skip
def test_the_count_sees_what_waits(wait: Callable[[Tensor], Any]) -> None:
    waits = Waits()
    with waits.noted():
        wait(torch.ones(3))
    assert len(waits) >= 1
    assert all(wait.where.endswith("/test_waits.py:<lambda>") for wait in waits)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x @ x, lambda x: x.sum().backward(), lambda x: torch.zeros(3, device="cpu"), lambda x: x.to(x.device),
        lambda x: torch.where(x > 0, x, 0), lambda x: x.index_select(0, torch.zeros(1, dtype=torch.int64)),
        lambda x: nn.utils.clip_grad_norm_([x], 1.0), lambda x: x.clone().mul_(2.0), lambda x: x.shape, lambda x: x[0],
    ],
)  # fmt: skip
def test_and_nothing_else(work: Callable[[Tensor], Any]) -> None:
    waits, x = Waits(), torch.ones(3, requires_grad=True)
    x.grad = torch.ones(3)
    with waits.noted():
        work(x)
    assert waits == []
