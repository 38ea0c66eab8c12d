"""A schedule that looks at the validation is judged whatever module has made it, as Lightning's own Trainer does."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Net, X, Y, fit, trainer, weights
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from metronome.models.schedulers import Plateau
from metronome.units import InputError

OURS = partial(Plateau, patience="5 steps", threshold=0.05, factor=0.5)  # an epoch has 5
THEIRS = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.05, factor=0.5)


class Plain(Net):
    """Written for any Trainer."""

    def __init__(self, make: Any, **config: Any) -> None:
        super().__init__()
        self.make, self.config, self.rates = make, config, []

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)
        schedule = {"scheduler": self.make(optimizer), "monitor": "val/loss", **self.config}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])


def loaders() -> tuple[Any, Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=32), DataLoader(TensorDataset(X[:23], Y[:23]), batch_size=32)


def test_as_that_of_torch_in_lightnings_own_trainer() -> None:
    flags: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 12,
                  "enable_model_summary": False, "num_sanity_val_steps": 2, "accelerator": "cpu"}  # fmt: skip
    stock, ours, theirs = Plain(THEIRS), Plain(OURS, interval="step"), Plain(THEIRS)
    L.Trainer(**flags).fit(stock, *loaders())
    for model in (ours, theirs):
        trainer(**flags).fit(model, *loaders())
        assert model.rates == pytest.approx(stock.rates, rel=1e-15)
        assert torch.equal(weights(model), weights(stock))
    assert len(set(stock.rates)) >= 3


def test_it_goes_on_from_checkpoints_of_a_validation(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, "{step}", monitor="val/loss", save_top_k=-1)
    flags: Any = {"val_check_interval": 2, "max_epochs": 4}
    whole, run = fit(model=Plain(OURS, interval="step"), callbacks=[saves], enable_checkpointing=True, **flags)
    state = run.lr_scheduler_configs[0].scheduler.state_dict()
    assert state["factor"] < 1
    for path in sorted(tmp_path.glob("*.ckpt"))[1::3]:
        again, rerun = fit(model=Plain(OURS, interval="step"), checkpoint=str(path), **flags)
        assert rerun.lr_scheduler_configs[0].scheduler.state_dict() == state
        assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize(
    ("config", "flags", "words"),
    [
        ({}, {}, "scheduler Plateau goes by steps, and Plain has it stepped otherwise"),
        ({"interval": "step", "frequency": 2}, {}, "scheduler Plateau goes by steps, and Plain has it stepped"),
        ({"interval": "step"}, {"limit_val_batches": 0}, "looks at a metric at each validation, and there is none"),
    ],
)
def test_one_that_could_not_be_judged(config: dict[str, Any], flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(model=Plain(OURS, **config), **flags)
