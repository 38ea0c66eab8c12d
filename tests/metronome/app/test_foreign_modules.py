"""A LightningModule written elsewhere, in the configuration: what was typed reaches it, or is refused in one line."""

from typing import Any

import lightning as L
import pytest
import torch
from commands import Commands
from torch import nn

from metronome.models import Regressor

LINEAR = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=2", "logger=none", "~model", "test=false",
          "callbacks.checkpoint.monitor=null")  # fmt: skip
RATES: list[float] = []


class Usual(L.LightningModule):
    """As the usual template has it: partials, kept as hyperparameters, called with the optimizer alone."""

    interval = "step"

    def __init__(self, net: nn.Module, optimizer: Any, scheduler: Any = None, compile: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        RATES.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        hparams: Any = self.hparams
        optimizer = hparams.optimizer(params=self.trainer.model.parameters())  # pyright: ignore
        scheduler = hparams.scheduler(optimizer=optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))


class ByEpochs(Usual):
    interval = "epoch"


def usual(**options: Any) -> Usual:
    return Usual(**options)


def ours(net: nn.Module, **options: Any) -> Regressor:
    return Regressor(net, **options)


class Own(L.LightningModule):
    """Has an optimizer of its own."""

    def __init__(self, lr: float = 0.01, optimizer_name: str = "sgd", **_: Any) -> None:
        super().__init__()
        self.net, self.lr = nn.Linear(10, 1), lr

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


NET = "net: {_target_: project.models.linear, num_inputs: 10, num_outputs: 1}"


def model(name: str, more: str = NET) -> str:
    return f"+model={{_target_: {__name__}.{name}, {more}}}"


def test_the_optimizer_and_the_scheduler_reach_a_module_that_takes_them(commands: Commands) -> None:
    for lr in (0.01, 0.02):
        RATES.clear()
        done = commands(
            "train", *LINEAR, model("Usual"), f"optimizer.lr={lr}", "scheduler=onecycle", f"hydra.run.dir=runs/{lr}"
        )
        assert done.code == 0, done.err
        assert max(RATES) == pytest.approx(lr)
        assert RATES[0] == pytest.approx(lr / 25)
    kept = torch.load(commands.folder / "runs/0.02/checkpoints/last.ckpt", weights_only=True)
    assert kept["hyper_parameters"] == {"compile": False}
    assert kept["metronome"]["config"]["model"]["optimizer"]["lr"] == 0.02


@pytest.mark.parametrize("typed", ["optimizer.lr=0.3", "optimizer=adam", "scheduler=cosine", "scheduler.warmup=1%"])
def test_what_a_module_does_not_take_is_refused(typed: str, commands: Commands) -> None:
    done = commands("train", *LINEAR, model("Own", "lr: 0.01"), typed)
    assert done.code == 2
    assert f"error: {typed} would change nothing: {__name__}.Own takes no" in done.err
    assert len(done.err.strip().splitlines()) == 1


LINE = f"optimizer=sgd, as the experiment has it, changes nothing: {__name__}.Own takes no optimizer; take it out"


def test_what_an_experiment_sets_beside_its_model_is_refused_too(commands: Commands) -> None:
    """What the configuration has by itself is nobody's choice: here the scheduler."""
    (commands.folder / "experiment").mkdir()
    (commands.folder / "experiment/own.yaml").write_text(
        "# @package _global_\ndefaults: [override /data: linear, override /optimizer: sgd, override /model: own]\n"
        "trainer: {max_epochs: 1}\n"
    )
    (commands.folder / "model").mkdir()
    (commands.folder / "model/own.yaml").write_text(f"_target_: {__name__}.Own\nlr: 0.01\n")
    job = ("+experiment=own", *LINEAR[1:2], *LINEAR[3:4], *LINEAR[5:], f"hydra.searchpath=[file://{commands.folder}]")
    done = commands("train", *job)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert f"error: {LINE}" in done.err
    assert commands("train", *job, "~optimizer").code == 0


def test_what_an_experiment_sets_for_another_model_is_said(commands: Commands) -> None:
    done = commands("train", *LINEAR, model("Own", "lr: 0.01"))
    assert (done.code, done.out.count("changes nothing")) == (0, 1), done.err
    assert LINE in done.out
    done = commands("train", "data=linear", *LINEAR[1:], model("Own", "lr: 0.01"))
    assert "changes nothing" not in done.out


def test_a_file_that_refers_to_them_takes_them(commands: Commands) -> None:
    done = commands("train", *LINEAR, model("Own", "lr: '${optimizer.lr}'"), "optimizer.lr=0.03")
    assert done.code == 0, done.err


def test_a_schedule_by_steps_that_is_stepped_by_epochs(commands: Commands) -> None:
    done = commands("train", *LINEAR, model("ByEpochs"), "scheduler=onecycle")
    assert done.code == 2, done.err
    assert "scheduler onecycle goes by steps, and ByEpochs has it stepped once an epoch" in done.err


def test_a_constant_rate_may_be_stepped_by_epochs(commands: Commands) -> None:
    done = commands("train", *LINEAR, model("ByEpochs"))
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", ["usual", "ours"])
def test_what_a_function_makes_gets_its_schedule(name: str, commands: Commands) -> None:
    done = commands("train", *LINEAR, model(name, f"optimizer: '${{optimizer}}', scheduler: '${{scheduler}}', {NET}"),
                    "scheduler=onecycle")  # fmt: skip
    assert done.code == 0, done.err
    (kept,) = torch.load(done.run / "checkpoints/last.ckpt", weights_only=True)["lr_schedulers"]
    assert kept["_last_lr"] == [pytest.approx(0.01 / 25 / 1e4)]


def test_the_rate_falls_on_a_plateau(commands: Commands) -> None:
    RATES.clear()
    done = commands("train", *LINEAR, model("Usual"), "scheduler=plateau", "scheduler.patience='1 epochs'",
                    "scheduler.threshold=1e9", "trainer.max_epochs=3")  # fmt: skip
    assert done.code == 0, done.err
    # The first validation is the best so far, the second no better.
    assert pytest.approx([0.01] * 200 + [0.001] * 100) == RATES


def test_a_schedule_of_torch_gets_the_number_of_steps(commands: Commands) -> None:
    RATES.clear()
    cycle = ("scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "~scheduler.warmup", "+scheduler.max_lr=0.02")
    done = commands("train", *LINEAR, model("Usual"), *cycle)
    assert done.code == 0, done.err
    assert max(RATES) == pytest.approx(0.02)
    assert RATES[-1] == pytest.approx(0.02 / 25 / 1e4)
