"""What the configuration makes, where that is not plain from the runs."""

import json
from typing import Any

import lightning as L
import pytest
import torch
from commands import Commands


class Stored(L.LightningModule):
    """Keeps an object in its checkpoint that could only be loaded by running code."""

    def __init__(self, kept: str, **_: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(10, 1)
        self.save_hyperparameters({"kept": object() if kept == "object" else kept})

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize(("kept", "code"), [("text", 0), ("object", 2)])
def test_a_module_written_elsewhere_and_what_it_keeps(kept: str, code: int, commands: Commands) -> None:
    """Without a validation_step there is no val/loss: the checkpoint monitors nothing, and the last one stands."""
    done = commands(
        *("train", "+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "logger=none", "~model"),
        *(f"+model={{_target_: {__name__}.Stored, kept: {kept}}}", "callbacks.checkpoint.monitor=null"),
    )
    assert done.code == code, done.err
    if code:
        assert "an object of class object in the checkpoint's hyper_parameters" in done.err
    else:
        assert done.result["progress"]["steps"] == 100


def test_no_progress_bar_unless_there_is_one_among_the_callbacks(commands: Commands) -> None:
    job = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "logger=none")
    done = commands("train", *job, "callbacks.progress=null")
    assert done.code == 0
    assert "Epoch 0" not in done.out + done.err
    assert "epoch 1/1" not in done.out


def test_the_speed_of_a_resumed_run_counts_its_own_samples(commands: Commands) -> None:
    job = ("+experiment=linear", "trainer=cpu", "logger=none")
    first = commands("train", *job, "trainer.max_epochs=4")
    checkpoint = first.run / "checkpoints/last.ckpt"
    done = commands("train", *job, "trainer.max_epochs=5", f"ckpt_path={checkpoint}", "hydra.run.dir=runs/again")
    result = json.loads((commands.folder / "runs/again/result.json").read_text())
    assert done.code == 0
    assert result["progress"]["samples"] == 5_000
    assert result["samples_per_second"] == pytest.approx(1_000 / result["seconds"]["train"])


def test_threads_are_those_of_the_job(commands: Commands) -> None:
    before = torch.get_num_threads()
    job = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "logger=none")
    commands("train", *job, "num_threads=2")
    assert torch.get_num_threads() == 2
    commands("train", *job)
    assert torch.get_num_threads() == before
