"""A run resumed from any of its checkpoints ends with bitwise the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Data, Net, fit, weights
from lightning.pytorch.callbacks import ModelCheckpoint


def checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """After every step, every validation and every epoch."""
    return [
        ModelCheckpoint(folder, "{step}-step", every_n_train_steps=1, save_top_k=-1),
        ModelCheckpoint(folder, "{step}-validation", monitor="val/loss", save_top_k=-1, save_on_train_epoch_end=False),
        ModelCheckpoint(folder, "{step}-epoch", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
    ]


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"batch_size": 16, "batch_growth": {"factor": 2}}, {"accumulate_grad_batches": 2, "max_epochs": 3}),
        ({"batch_size": 32}, {"val_check_interval": 2, "max_epochs": 2}),
        ({"batch_size": 32}, {"max_epochs": -1, "max_steps": 12}),
        ({"batch_size": 32}, {"max_epochs": None, "budget": "400 samples"}),
        ({"batch_size": 32}, {"check_val_every_n_epoch": None, "val_check_interval": 7, "max_epochs": 2}),
        ({"batch_size": 32, "num_workers": 2}, {"max_epochs": 2}),
        ({"batch_size": 32, "drop_last": True}, {"limit_train_batches": 3, "max_epochs": 3}),
    ],
    ids=["growing batch", "validation inside", "max_steps", "samples", "by steps", "workers", "limit"],
)
def test_every_checkpoint(options: dict[str, Any], flags: dict[str, Any], tmp_path: Path) -> None:
    saves = checkpoints(tmp_path)
    model, run = fit(model=Net(dropout=0.2), data=Data(**options), callbacks=saves, enable_checkpointing=True, **flags)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) >= run.global_step + 2
    different = []
    for path in paths[:: 3 if "num_workers" in options else 1]:
        again, rerun = fit(model=Net(dropout=0.2), data=Data(**options), checkpoint=str(path), **flags)
        same = torch.equal(weights(again), weights(model))
        if not same or rerun.global_step != run.global_step or rerun.counters != run.counters:
            different.append(path.name)
    assert not different, f"{len(different)} of {len(paths)}"


@pytest.mark.parametrize("steps", [2, 5, 7, 10])  # of 5 in an epoch
@pytest.mark.parametrize("when", ["at the end of the epoch", "after the training"])
def test_a_run_that_its_budget_ended_goes_on(steps: int, when: str, tmp_path: Path) -> None:
    model, _ = fit(model=Net(dropout=0.2), max_epochs=3)
    if when == "after the training":
        _, short = fit(model=Net(dropout=0.2), max_epochs=-1, max_steps=steps)
        short.save_checkpoint(tmp_path / "end.ckpt")
    else:
        save = ModelCheckpoint(tmp_path, "end", save_on_train_epoch_end=True, enable_version_counter=False)
        fit(model=Net(dropout=0.2), max_epochs=-1, max_steps=steps, callbacks=[save], enable_checkpointing=True)
    again, run = fit(model=Net(dropout=0.2), max_epochs=3, checkpoint=str(tmp_path / "end.ckpt"))
    assert torch.equal(weights(again), weights(model))
    assert (run.global_step, run.counters.epochs, run.counters.samples) == (15, 3, 3 * 157)


def test_a_checkpoint_moves_to_another_layout(tmp_path: Path) -> None:
    """Same steps, same samples: equal to rounding."""
    model, _ = fit(callbacks=checkpoints(tmp_path), enable_checkpointing=True)
    for name in ("step=7-step.ckpt", "step=10-epoch.ckpt"):
        layouts: list[dict[str, Any]] = [{"accumulate_grad_batches": 3}, {"devices": 2, "strategy": "ddp_fork"}]
        for flags in layouts:
            again, _ = fit(checkpoint=str(tmp_path / name), **flags)
            torch.testing.assert_close(weights(again), weights(model), rtol=1e-12, atol=1e-15)
