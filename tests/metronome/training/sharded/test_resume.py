"""A checkpoint of a sharded training is one of any layout's: a folder of shards, or one file with whole weights."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Net, fit
from lightning.pytorch.callbacks import Callback
from several import together

from metronome.training.checkpoints.files import CheckpointFiles
from metronome.training.checkpoints.sharded.folder import is_sharded
from metronome.training.sharded import ShardedStrategy
from metronome.training.sharded.tensors import whole

STOP = 8  # of 5 steps an epoch: in the middle of the second


class Adam(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SavesAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def trained(layout: dict[str, Any], dropout: float, folder: Path, checkpoint: Path | None) -> Any:
    callbacks = [] if checkpoint else [SavesAt(STOP, folder / "at.ckpt")]
    model, _ = fit(
        model=Adam(dropout), precision="64-true", callbacks=callbacks, accumulate_grad_batches=2,
        checkpoint=str(checkpoint) if checkpoint else None, **layout,
    )  # fmt: skip
    weights = torch.cat([whole(p.detach()).flatten() for p in model.parameters()])
    return {"weights": weights, "epochs": model.epoch_means, "val": model.val_losses}


def on(devices: int, dropout: float, folder: Path, checkpoint: Path | None, in_shards: bool = True) -> Any:
    strategy = ShardedStrategy(sharded_checkpoints=in_shards)
    return trained({"devices": devices, "strategy": strategy}, dropout, folder, checkpoint)


@pytest.mark.slow
def test_on_as_many_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole_run = together(2, tmp_path, on, 2, 0.3, tmp_path, None)
    rest = together(2, tmp_path, on, 2, 0.3, tmp_path, tmp_path / "at.ckpt")
    for ours, theirs in zip(rest, whole_run, strict=True):
        assert torch.equal(ours["weights"], theirs["weights"])
        assert ours["epochs"][-2:] == theirs["epochs"][-2:]
        assert ours["val"][-2:] == theirs["val"][-2:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "in_shards"),
    [(2, 3, True), (3, 2, True), (2, 1, True), (1, 2, True), (3, 2, False), (2, 1, False)],
)
def test_on_another_number_to_rounding(before: int, after: int, in_shards: bool, tmp_path: Path) -> None:
    """One of them alone is a training without a strategy."""

    def run(devices: int, checkpoint: Path | None) -> Any:
        if devices == 1:
            return [trained({}, 0.0, tmp_path, checkpoint)]
        return together(devices, tmp_path, on, devices, 0.0, tmp_path, checkpoint, in_shards)

    expected = run(before, None)[0]
    assert is_sharded(tmp_path / "at.ckpt") == (before > 1 and in_shards)
    content = CheckpointFiles().load_checkpoint(tmp_path / "at.ckpt", weights_only=True)
    assert {type(value) for value in content["state_dict"].values()} == {torch.Tensor}
    for each in run(after, tmp_path / "at.ckpt"):
        torch.testing.assert_close(each["weights"], expected["weights"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(each["epochs"][-2:], expected["epochs"][-2:], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(each["val"][-2:], expected["val"][-2:], rtol=1e-12, atol=1e-12)
