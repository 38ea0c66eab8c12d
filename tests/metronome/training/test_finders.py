"""Lightning's finders of a batch size and of a rate, callbacks that average weights, and a mean teacher."""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Data, Net, X, Y, network, trainer, weights
from lightning.pytorch.callbacks import BatchSizeFinder, EMAWeightAveraging, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from metronome.models import Regressor
from metronome.models.schedulers import cosine
from metronome.training import Trainer
from metronome.units import InputError

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0, "max_epochs": 2,
}  # fmt: skip


class Loaders(L.LightningDataModule):
    """Of a stranger: plain loaders of a batch size that can be set."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(X[:64], Y[:64]), batch_size=self.batch_size)

    val_dataloader = test_dataloader = train_dataloader


# ---- finders, and the mean teacher -------------------------------------------------------------------------------


class Short(Net):
    """Of memory for more than 16 samples."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._needs_memory(batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._needs_memory(batch)
        super().validation_step(batch, batch_idx)

    test_step = validation_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        pass

    def _needs_memory(self, batch: Any) -> None:
        if len(batch[0]) > 16:
            raise RuntimeError("CUDA out of memory. Tried to allocate")


@pytest.mark.parametrize("method", ["fit", "validate", "test"])
@pytest.mark.parametrize("flags", [None, {}, {"accumulate_grad_batches": "auto"}], ids=["stock", "ours", "auto"])
def test_the_largest_batch_that_fits(method: Any, flags: Any, tmp_path: Path) -> None:
    data, kind = Loaders(4), L.Trainer if flags is None else Trainer
    run = kind(**QUIET | (flags or {}), default_root_dir=tmp_path)
    found = Tuner(run).scale_batch_size(Short(), datamodule=data, method=method, init_val=4, steps_per_trial=1)
    assert (found, data.batch_size) == (16, 16)
    if kind is Trainer:
        assert run.out_of_memory == []  # pyright: ignore


def test_a_finder_leaves_no_trace(tmp_path: Path) -> None:
    """The training after it is that of the batch size that it found."""
    finder = BatchSizeFinder(init_val=4, max_trials=3, steps_per_trial=1)
    found, plain = Net(dropout=0.5), Net(dropout=0.5)
    run = trainer(max_epochs=3, callbacks=[finder], default_root_dir=tmp_path)
    run.fit(found, datamodule=Data(batch_size=4))
    assert finder.optimal_batch_size == 16
    alone = trainer(max_epochs=3)
    alone.fit(plain, datamodule=Data(batch_size=16))
    assert torch.equal(weights(found), weights(plain))
    assert (run.counters, run.global_step) == (alone.counters, alone.global_step)


def test_a_mean_teacher_moves_when_it_does_in_lightning() -> None:
    class Taught(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.teacher = deepcopy(self.net).requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            out = self.net(x)
            return nn.functional.mse_loss(out, y) + nn.functional.mse_loss(out, self.teacher(x))

        def on_before_zero_grad(self, optimizer: Any) -> None:
            for mean, weight in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                mean.data.mul_(0.9).add_(weight.data, alpha=0.1)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    stock, ours = Taught(), Taught()
    L.Trainer(**QUIET).fit(stock, datamodule=Loaders())
    Trainer(**QUIET).fit(ours, datamodule=Loaders())
    assert torch.equal(weights(ours), weights(stock))
    cut = Taught()
    Trainer(**QUIET, accumulate_grad_batches=3).fit(cut, datamodule=Loaders())
    torch.testing.assert_close(weights(cut), weights(stock), rtol=1e-12, atol=1e-15)


# ---- a rate that is found ----------------------------------------------------------------------------------------


def regressor(scheduler: Any = None, lr: Any = 0.01) -> Regressor:
    return Regressor(network(), optimizer=partial(torch.optim.SGD, lr=lr), scheduler=scheduler)


def finder(**options: Any) -> LearningRateFinder:
    return LearningRateFinder(min_lr=1e-4, num_training_steps=30, early_stop_threshold=None, **options)


@pytest.mark.parametrize("scheduler", [None, cosine, partial(cosine, warmup="3 steps")], ids=["none", "cosine", "warm"])
def test_the_rate_that_is_found_is_the_one_trained_with(scheduler: Any, tmp_path: Path) -> None:
    found, looks = regressor(scheduler), finder()
    run = trainer(max_epochs=6, callbacks=[looks], default_root_dir=tmp_path)
    run.fit(found, datamodule=Data(batch_size=32))
    rate = looks.optimal_lr.suggestion()  # pyright: ignore
    assert found.lr == rate != 0.01
    plain = regressor(scheduler, rate)
    alone = trainer(max_epochs=6)
    alone.fit(plain, datamodule=Data(batch_size=32))
    torch.testing.assert_close(weights(found), weights(plain), rtol=1e-12, atol=1e-15)
    assert (run.counters, run.global_step) == (alone.counters, alone.global_step)


def test_a_tuner_finds_a_rate_before_the_fit(tmp_path: Path) -> None:
    model, run = regressor(cosine), trainer(max_epochs=6, default_root_dir=tmp_path)
    found = Tuner(run).lr_find(
        model, datamodule=Data(batch_size=32), min_lr=1e-4, num_training=30, early_stop_threshold=None
    )
    assert found is not None
    assert model.lr == found.suggestion()
    plain = regressor(cosine, found.suggestion())  # pyright: ignore
    for module in (model, plain):
        trainer(max_epochs=2).fit(module, datamodule=Data(batch_size=32))
    assert torch.equal(weights(model), weights(plain))


def test_a_schedule_with_rates_of_its_own_does_not_take_it(tmp_path: Path) -> None:
    model = regressor(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1))
    run = trainer(max_epochs=6, callbacks=[finder()], default_root_dir=tmp_path)
    with pytest.raises(InputError, match=r"OneCycleLR has rates of its own.*use scheduler=onecycle"):
        run.fit(model, datamodule=Data(batch_size=32))


# ---- averaged weights --------------------------------------------------------------------------------------------


def test_what_is_tested_is_what_the_checkpoint_has_for_its_weights(tmp_path: Path) -> None:
    save = ModelCheckpoint(tmp_path, "all")
    run = trainer(max_epochs=3, callbacks=[EMAWeightAveraging(decay=0.9), save], enable_checkpointing=True)

    class Tested(Net):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.seen = weights(self)

    model = Tested()
    run.fit(model, datamodule=Data(batch_size=32))
    run.test(model, datamodule=Data(batch_size=32), ckpt_path=save.best_model_path, verbose=False)
    inside = torch.load(save.best_model_path)
    saved = torch.cat([inside["state_dict"][name].flatten() for name, _ in model.named_parameters()])
    trained = torch.cat([inside["current_model_state"][name].flatten() for name, _ in model.named_parameters()])
    assert torch.equal(model.seen, saved)
    assert not torch.equal(saved, trained)
