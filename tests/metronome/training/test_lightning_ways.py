"""Lightning's own ways of setting a training up: seeds, flags, intervals, loaders."""

import inspect
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from jobs import Data, Net, X, Y, trainer, weights
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from metronome.training import Trainer
from metronome.units import InputError

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0, "max_epochs": 2,
}  # fmt: skip
TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}
BOTH = pytest.mark.parametrize("kind", [L.Trainer, Trainer], ids=["stock", "ours"])


class Loaders(L.LightningDataModule):
    """Of a stranger: plain loaders of a batch size that can be set."""

    def __init__(self, batch_size: int = 16, num_samples: int = 64) -> None:
        super().__init__()
        self.batch_size, self.num_samples, self.sizes = batch_size, num_samples, []

    def train_dataloader(self) -> DataLoader:
        self.sizes.append(self.batch_size)
        return DataLoader(TensorDataset(X[: self.num_samples], Y[: self.num_samples]), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(X[:64], Y[:64]), batch_size=self.batch_size)

    test_dataloader = val_dataloader


class Counted(Net):
    validations = 0

    def on_validation_epoch_start(self) -> None:
        self.validations += 1

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_seed_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


# ---- seed_everything ---------------------------------------------------------------------------------------------


def _trained(*everything: int, seed: int | None = None) -> Tensor:
    """Weights after two epochs with dropout and a shuffled order."""
    model = Net(dropout=0.5)
    run = Trainer(**QUIET, seed=seed)
    for other in everything:
        L.seed_everything(other)
    run.fit(model, datamodule=Data(batch_size=32))
    return weights(model)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_last_seed_everything_is_the_seed(seed: int) -> None:
    followed = _trained(5, seed)
    assert torch.equal(followed, _trained(seed=seed))


def test_seeds_differ_and_one_that_is_given_wins() -> None:
    one, two = _trained(1), _trained(2)
    assert not torch.equal(one, two)
    assert torch.equal(_trained(2, seed=1), one)


def test_without_any_it_is_0() -> None:
    assert Trainer(**QUIET).seed == 0


@pytest.mark.parametrize("text", ["-1", "many", str(2**32)])
def test_an_environment_without_a_seed_in_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", text)
    with pytest.raises(InputError, match=r"seed=.*is not a whole number from 0 to 4,294,967,295"):
        Trainer(**QUIET)


class SeedsByRank(Net):
    def setup(self, stage: str) -> None:
        assert self.trainer.seed == 3  # pyright: ignore


def test_processes_that_seed_themselves_differently_have_one_order(tmp_path: Path) -> None:
    """Each seeds by its rank, as some scripts do: the seed is that of the first."""

    class Run(Trainer):
        def _run(self, *args: Any, **kwargs: Any) -> Any:
            os.environ["PL_GLOBAL_SEED"] = str(3 + self.global_rank)
            return super()._run(*args, **kwargs)

    run = Run(**QUIET | TWO)
    run.fit(SeedsByRank(record=tmp_path / "two"), datamodule=Data(batch_size=32))
    alone = trainer(max_epochs=2, seed=3)
    model = Net()
    alone.fit(model, datamodule=Data(batch_size=32))
    torch.testing.assert_close(torch.load(tmp_path / "two")["weights"], weights(model), rtol=1e-12, atol=1e-15)


# ---- flags -------------------------------------------------------------------------------------------------------


def test_the_signature_has_all_flags_of_lightning() -> None:
    ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (Trainer, L.Trainer))
    assert set(theirs) < set(ours)
    assert set(ours) - set(theirs) == {
        "budget", "seed", "on_nonfinite", "compile", "channels_last", "allow_tf32"
    }  # fmt: skip
    changed = {name for name in theirs if name != "self" and theirs[name].default != ours[name].default}
    assert not changed
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours.values())


def test_the_defaults_of_lightning_may_be_given() -> None:
    defaults = {name: flag.default for name, flag in inspect.signature(L.Trainer).parameters.items()}
    run, model = Trainer(**defaults | QUIET), Net()
    run.fit(model, datamodule=Data(batch_size=32))
    plain = Net()
    Trainer(**QUIET).fit(plain, datamodule=Data(batch_size=32))
    assert torch.equal(weights(model), weights(plain))


def test_lightning_cli_sets_flags() -> None:
    pytest.importorskip("jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    arguments = ["fit", "--trainer.max_epochs=3", "--trainer.accumulate_grad_batches=2", "--seed_everything=5"]
    for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"):
        arguments.append(f"--trainer.{name}=false")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        cli = LightningCLI(
            Counted,
            Loaders,
            trainer_class=Trainer,
            save_config_callback=None,
            args=[*arguments, "--trainer.accelerator=cpu"],
        )
    run: Any = cli.trainer
    assert (run.max_epochs, run.accumulate, run.seed, run.global_step) == (3, 2, 5, 12)


@BOTH
def test_flags_from_the_environment(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_ACCUMULATE_GRAD_BATCHES", "2")
    monkeypatch.setenv("PL_TRAINER_LOG_EVERY_N_STEPS", "7")
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "9")
    run = kind(**QUIET)
    assert run.log_every_n_steps == 7
    assert run.max_epochs == 2  # what is given comes first
    if kind is Trainer:
        assert (run.accumulate, run.accumulate_grad_batches) == (2, 1)
        monkeypatch.setenv("PL_TRAINER_BUDGET", "3 epochs")
        monkeypatch.setenv("PL_TRAINER_SEED", "4")
        monkeypatch.delenv("PL_TRAINER_MAX_EPOCHS")
        run = Trainer(**{name: value for name, value in QUIET.items() if name != "max_epochs"})
        assert (run.max_epochs, run.seed) == (3, 4)
    else:
        assert run.accumulate_grad_batches == 2


def test_numbers_of_numpy() -> None:
    numbers = {"max_epochs": 3, "accumulate_grad_batches": 2, "val_check_interval": 2, "limit_val_batches": 1,
               "log_every_n_steps": 3, "seed": 5, "check_val_every_n_epoch": 1, "min_steps": 1}  # fmt: skip
    flags = {name: np.int64(value) for name, value in numbers.items()}
    run, model = (
        Trainer(**QUIET | flags | {"gradient_clip_val": np.float32(1), "benchmark": np.bool_(False)}),
        Counted(),
    )
    run.fit(model, datamodule=Loaders())
    assert (run.global_step, model.validations, run.seed) == (12, 6, 5)
    assert (type(run.max_epochs), type(run.seed), type(run.gradient_clip_val)) == (int, int, float)
    assert Trainer(**QUIET | {"fast_dev_run": np.int64(2)}).max_steps == 2  # pyright: ignore
    assert Trainer(**QUIET | {"limit_train_batches": np.float32(0.5)}).limit_train_batches == 0.5


# ---- a time between validations ----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("every_epoch", [1, None])
@pytest.mark.parametrize(
    ("interval", "validations"),
    [({"seconds": 0}, 8), (timedelta(days=9), 0), ("09:00:00:00", 0)],
)
def test_an_interval_that_is_a_time(kind: Any, interval: Any, validations: int, every_epoch: int | None) -> None:
    model, run = Counted(), kind(**QUIET, val_check_interval=interval, check_val_every_n_epoch=every_epoch)
    run.fit(model, datamodule=Loaders())
    assert (run.global_step, model.validations) == (8, validations)


@pytest.mark.parametrize("interval", ["often", "1:30", True])
def test_what_no_interval_is(interval: Any) -> None:
    with pytest.raises(InputError, match=r"^trainer\.val_check_interval=.* or a time such as 00:01:30:00$"):
        Trainer(**QUIET, val_check_interval=interval)


def test_to_load_data_anew_is_no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that goes on by 1 at each step, and data loaded each epoch of 4 steps."""

    class Clocked(Counted):
        def on_train_batch_end(self, *args: Any) -> None:
            now[0] += 1

    now, model = [0.0], Clocked()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    flags = QUIET | {"max_epochs": 6, "reload_dataloaders_every_n_epochs": 1}
    Trainer(**flags, val_check_interval={"seconds": 6}).fit(model, datamodule=Loaders())
    assert model.validations == 24 // 6


class Apart(Counted):
    """Whose clock goes differently on each device."""

    def on_train_batch_end(self, *args: Any) -> None:
        if self.trainer.global_rank == 1 and self.trainer.global_step == 3:
            self.trainer._last_val_time -= 3600  # pyright: ignore

    def on_train_end(self) -> None:
        assert self.record
        (self.record / str(self.trainer.global_rank)).write_text(str(self.validations))


def test_devices_agree_on_when_it_is(tmp_path: Path) -> None:
    run = Trainer(**QUIET | TWO | {"val_check_interval": {"minutes": 30}})
    run.fit(Apart(record=tmp_path), datamodule=Data(batch_size=32))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["1", "1"]


# ---- loaders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2])
def test_loaders_are_made_anew(every: int) -> None:
    class Curriculum(Loaders):
        def train_dataloader(self) -> DataLoader:
            self.num_samples = 16 * (len(self.sizes) + 1)
            return super().train_dataloader()

    ends = []
    kinds: list[Any] = [L.Trainer, Trainer]
    for kind in kinds:
        model, data = Counted(), Curriculum(8)
        run = kind(**QUIET | {"max_epochs": 5, "reload_dataloaders_every_n_epochs": every})
        run.fit(model, datamodule=data)
        ends.append((weights(model).tolist(), len(data.sizes), run.global_step))
    assert ends[0] == ends[1]
    assert ends[0][1] == -(-5 // every)


class Streamed(IterableDataset):
    """As many samples on each device as it says."""

    def __init__(self, *samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank()
        return iter(zip(X[: self.samples[rank]], Y[: self.samples[rank]], strict=True))


class Sized(Streamed):
    def __len__(self) -> int:
        here = torch.distributed.is_initialized()
        return self.samples[torch.distributed.get_rank() if here else 0]


@pytest.mark.parametrize("data", [Streamed(8, 0), Streamed(0, 8), Streamed(12, 8), Sized(8, 12)])
def test_devices_without_as_many_batches_do_not_wait_for_ever(data: Any) -> None:
    with pytest.raises(Exception, match="the training loader has more batches on some devices than on others"):
        Trainer(**QUIET | TWO).fit(Counted(), DataLoader(data, batch_size=4))
