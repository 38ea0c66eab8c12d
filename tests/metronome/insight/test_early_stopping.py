"""A training that ends where it no longer improves, also one that goes on."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from metronome.insight import EarlyStopping
from metronome.training import Checkpoint, Trainer
from metronome.units import InputError

# At steps 2, 4, 6, ...: the best at step 6, then four that are no better.
VALUES = (9.0, 8.0, 4.0, 5.0, 4.0, 6.0, 4.5, 3.0, 2.0, 2.0)


class Killed(Exception): ...


class Net(L.LightningModule):
    """Its validations say what `values` says; it dies in the step after `dies_after`."""

    def __init__(self, values: tuple[float, ...], name: str, dies_after: int | None) -> None:
        super().__init__()
        self.values, self.name, self.layer = values, name, torch.nn.Linear(1, 1)
        self.dies_after = dies_after

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer.global_step == self.dies_after:
            raise Killed
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log(self.name, torch.tensor(self.values[self.trainer.global_step // 2 - 1]), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(
    folder: Path, values: tuple[float, ...] = VALUES, name: str = "val/loss", dies_after: int | None = None,
    ckpt: str | None = None, **options: Any,
) -> Any:  # fmt: skip
    loader = DataLoader(TensorDataset(torch.ones(12, 1)), batch_size=2)
    stop = EarlyStopping(**({"monitor": name, "patience": 4} | options))
    trainer: Any = Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=20, max_epochs=-1, val_check_interval=2,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False, enable_progress_bar=False,
        callbacks=[stop, Checkpoint(folder, save_last=True, save_top_k=0, save_last_every="1 steps")],
        log_every_n_steps=1, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Net(values, name, dies_after), loader, loader, ckpt_path=ckpt)
    return trainer


def why(trainer: Any) -> str | None:
    (found,) = [callback.why for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]
    return found


@pytest.mark.parametrize(
    ("options", "steps", "words"),
    [
        ({}, 14, "no better val/loss for 4 validations; best 4 at step 6"),
        ({"patience": 2}, 10, "no better val/loss for 2 validations; best 4 at step 6"),
        ({"patience": 1}, 8, "no better val/loss for 1 validation; best 4 at step 6"),
        ({"patience": 5}, 20, None),
        # 9 to 8 is no improvement by more than 2, 9 to 4 is one.
        ({"patience": 2, "min_delta": 2}, 10, "no better val/loss for 2 validations; best 4 at step 6"),
        ({"patience": 3, "mode": "max"}, 8, "no better val/loss for 3 validations; best 9 at step 2"),
        ({"name": "val/acc", "patience": 3}, 8, "no better val/acc for 3 validations; best 9 at step 2"),
        ({"stopping_threshold": 4.5}, 6, "val/loss has come to 4.5"),
        ({"values": (9.0, float("nan"), *VALUES)}, 4, "val/loss is not finite"),
    ],
)
def test_where_it_stops(options: dict[str, Any], steps: int, words: str | None, tmp_path: Path) -> None:
    trainer = run(tmp_path, **options)
    assert (trainer.global_step, why(trainer)) == (steps, words)


@pytest.mark.parametrize("cut", [4, 9, 12, 13])
def test_one_that_goes_on_stops_where_it_would_have(cut: int, tmp_path: Path) -> None:
    """How long it has waited, and for what, is in the checkpoint."""
    with pytest.raises(Killed):
        run(tmp_path, dies_after=cut)
    again = run(tmp_path, ckpt=str(tmp_path / "last.ckpt"))
    assert (again.global_step, why(again)) == (14, "no better val/loss for 4 validations; best 4 at step 6")


def test_the_patience_is_the_one_that_is_given(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, dies_after=8)
    assert run(tmp_path, ckpt=str(tmp_path / "last.ckpt"), patience=2).global_step == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"monitor": None}, "needs the name of a metric"),
        ({"patience": 0}, "patience=0"),
        ({"patience": "5 epochs"}, "patience='5 epochs'"),
        ({"min_delta": -1.0}, "min_delta=-1.0 is not a difference"),
        ({"mode": "least"}, "neither min nor max"),
        ({"name": "val/foo"}, "monitor=val/foo: whether lower or higher is better cannot be told"),
        ({"monitor": "val/acc"}, "monitor=val/acc of early stopping is not logged; there is: val/loss"),
    ],
)
def test_what_is_no_early_stopping(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        run(tmp_path, **options)
    assert words in str(error.value)
