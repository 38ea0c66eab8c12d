"""A training that ends where it has what was asked of it, also one that goes on."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from metronome.insight import StopAtTarget
from metronome.training import Checkpoint, Trainer
from metronome.units import InputError

# At steps 2, 4, 6, ...; in a row at most twice, then thrice.
VALUES = (9.0, 4.0, 9.0, 4.0, 4.0, 9.0, 4.0, 3.0, 4.0, 4.0, 4.0)


class Net(L.LightningModule):
    """Its validations say what `values` says."""

    def __init__(self, values: tuple[float, ...]) -> None:
        super().__init__()
        self.values, self.layer = values, torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(self.values[self.trainer.global_step // 2 - 1]), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(folder: Path, said: tuple[float, ...], max_steps: int = 22, ckpt: str | None = None, **options: Any) -> Any:
    loader = DataLoader(TensorDataset(torch.ones(12, 1)), batch_size=2)
    stop = StopAtTarget("val/loss", **({"values": [8.0, 5.0], "confirm": 3} | options))
    trainer: Any = Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=max_steps, max_epochs=-1, val_check_interval=2,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False, enable_progress_bar=False,
        callbacks=[stop, Checkpoint(folder, save_last=True, save_top_k=0)], log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Net(said), loader, loader, ckpt_path=ckpt)
    return trainer


@pytest.mark.parametrize(
    ("said", "options", "steps"),
    [
        (VALUES, {}, 18),
        (VALUES, {"confirm": 2}, 10),
        (VALUES, {"confirm": 1}, 4),
        (VALUES, {"values": 3.5, "confirm": 1}, 16),
        (VALUES, {"values": [1.0, 8.5], "mode": "max", "confirm": 1}, 2),
        ((9.0, float("nan"), *VALUES), {}, 4),
        ((9.0,) * 11, {}, 22),
    ],
)
def test_where_it_stops(said: tuple[float, ...], options: dict[str, Any], steps: int, tmp_path: Path) -> None:
    assert run(tmp_path, said, **options).global_step == steps


@pytest.mark.parametrize("cut", [2, 8, 14, 16])
def test_one_that_goes_on_stops_where_it_would_have(cut: int, tmp_path: Path) -> None:
    """What was had in a row before counts on."""
    first = run(tmp_path, VALUES, max_steps=cut)
    assert first.global_step == cut
    assert run(tmp_path, VALUES, ckpt=str(tmp_path / "last.ckpt")).global_step == 18


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"values": []}, "are not numbers"),
        ({"values": [True]}, "are not numbers"),
        ({"values": 1.0, "mode": "least"}, "neither min nor max"),
        ({"values": 1.0, "confirm": 0}, "confirm=0"),
    ],
)
def test_what_is_no_target(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        StopAtTarget("val/loss", **options)
