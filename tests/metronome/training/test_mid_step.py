"""A checkpoint written in the middle of a step, by a hook or since an error ended it, is one from before that step."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Net, fit
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from torch import nn
from torchmetrics import CatMetric, MeanMetric

FLAGS: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 2}  # 5 steps an epoch
IN_A_STEP = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
             "on_before_optimizer_step")  # fmt: skip
AROUND = ("on_train_epoch_start", "on_train_batch_end", "on_validation_start", "on_validation_batch_end",
          "on_validation_end")  # fmt: skip
QUICK = ("on_before_backward", "on_before_optimizer_step", "on_validation_start")


class Boom(Exception):
    pass


class Seen(Net):
    """With all that a step changes before its update: logged values, torchmetrics, the buffers of BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16).double())  # pyright: ignore
        self.mean, self.all, self.seen = MeanMetric(), CatMetric(), []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mean(batch[1])
        self.all(batch[1][:, 0])
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        values = self.trainer.callback_metrics
        self.seen.append([float(values["loss_epoch"]), float(values["mean"]), float(self.all.compute().sum())])
        self.all.reset()


def boom(owner: type, hook: str, call: int) -> Any:
    """An object of this class whose hook raises when it is called so often."""
    calls = [0]

    def raises(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise Boom
        return getattr(super(kind, self), hook)(*arguments, **options)

    kind = type("Raises", (owner,), {hook: raises})
    return kind()


def assert_same(again: tuple[Any, Any], whole: tuple[Any, Any], name: Any) -> None:
    (model, run), (other, other_run) = again, whole
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), (name, key)
    assert (run.global_step, run.counters) == (other_run.global_step, other_run.counters), name
    assert model.seen == other.seen[len(other.seen) - len(model.seen) :], name
    assert model.val_losses == other.val_losses[len(other.val_losses) - len(model.val_losses) :], name


@pytest.mark.parametrize(
    "owner",
    [pytest.param(Seen, id="of the module"), pytest.param(Callback, id="of a callback", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "hook",
    [hook if hook in QUICK else pytest.param(hook, marks=pytest.mark.slow) for hook in [*IN_A_STEP, *AROUND]],
)
def test_an_error_in_any_call_of_a_hook(hook: str, owner: type, tmp_path: Path) -> None:
    whole, call = fit(model=Seen(), **FLAGS), 0
    while True:
        call += 1
        made, file = boom(owner, hook, call), tmp_path / f"{call}.ckpt"
        callbacks = [OnExceptionCheckpoint(tmp_path, str(call)), *([made] if owner is Callback else [])]
        try:
            model = made if owner is Seen else Seen()
            fit(model=model, callbacks=callbacks, enable_checkpointing=True, **FLAGS)
            break
        except Boom:
            assert_same(fit(model=Seen(), checkpoint=str(file), **FLAGS), whole, call)
    assert call > 2


@pytest.mark.parametrize("step", range(1, 7))
def test_save_on_exception(step: int, tmp_path: Path) -> None:
    """By Lightning's own ModelCheckpoint, of an error in `training_step` itself."""
    whole = fit(model=Seen(), max_epochs=2)
    save = ModelCheckpoint(tmp_path, "saved", save_on_exception=True, save_top_k=0)
    model = boom(Seen, "training_step", step + 1)
    with pytest.raises(Boom):
        fit(model=model, max_epochs=2, callbacks=[save], enable_checkpointing=True)
    assert_same(fit(model=Seen(), max_epochs=2, checkpoint=str(next(tmp_path.glob("*.ckpt")))), whole, step)


@pytest.mark.parametrize("hook", IN_A_STEP)
def test_a_save_in_a_hook_changes_nothing(hook: str, tmp_path: Path) -> None:
    """Neither in the run that goes on from it, nor in the one that has made it."""
    whole = fit(model=Seen(), **FLAGS)

    def save(self: Any, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    saving = type("Saving", (Callback,), {hook: save})()
    assert_same(fit(model=Seen(), callbacks=[saving], **FLAGS), whole, "saving")
    for step in range(10):
        again = fit(model=Seen(), checkpoint=str(tmp_path / f"{step}.ckpt"), **FLAGS)
        assert_same(again, whole, step)


class Saves(Net):
    """Saves where nobody expects it."""

    def __init__(self, place: str, file: Path) -> None:
        super().__init__()
        self.place, self.file = place, file

    def save(self, place: str) -> None:
        if place == self.place and self.trainer.global_step == 6:
            self.trainer.save_checkpoint(self.file)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.save("training_step")
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.save("optimizer_step")

    def lr_scheduler_step(self, *arguments: Any) -> None:
        if self.trainer.global_step == 7 and self.place == "lr_scheduler_step":
            self.trainer.save_checkpoint(self.file)
        super().lr_scheduler_step(*arguments)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("training_step", "its logged values have seen the samples of that step, and will see them again"),
        ("optimizer_step", "its weights have been changed by that step, which will be made again"),
        ("lr_scheduler_step", "schedulers have not, or not all, been stepped in it, and will not be"),
    ],
)
def test_what_cannot_be_put_back_is_said(
    place: str, line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "metronome.training"):
        saves = [OnExceptionCheckpoint(tmp_path)] if place == "optimizer_step" else []
        fit(model=Saves(place, tmp_path / "saved.ckpt"), callbacks=saves, enable_checkpointing=True)
    assert line in caplog.text
    assert caplog.text.count("a checkpoint is written in the middle of step") == 1
