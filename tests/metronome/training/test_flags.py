"""What each flag must be is told before Lightning sees it."""

from datetime import timedelta
from typing import Any

import pytest
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy

from metronome.training import Trainer
from metronome.training.flags import check_flags
from metronome.units import InputError


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_epochs", "many", "'many' is not a whole number from -1 up"),
        ("max_epochs", True, "True is not a whole number"),
        ("max_epochs", -5, "-5 is not a whole number from -1 up"),
        ("min_epochs", 2.5, "2.5 is not a whole number"),
        ("max_steps", "x", "'x' is not a whole number"),
        ("min_steps", "x", "'x' is not a whole number"),
        ("num_sanity_val_steps", "x", "'x' is not a whole number"),
        ("log_every_n_steps", "x", "'x' is not a whole number"),
        ("log_every_n_steps", -1, "-1 is not a whole number from 0 up"),
        ("num_nodes", 0, "0 is not a whole number from 1 up"),
        ("check_val_every_n_epoch", -1, "-1 is not a whole number from 1 up"),
        ("check_val_every_n_epoch", 0, "0 is no interval; to leave validation out use trainer.limit_val_batches=0"),
        ("val_check_interval", 0, "0 is no interval"),
        ("limit_train_batches", "some", "'some' is not a number"),
        ("limit_val_batches", "some", "'some' is not a number"),
        ("limit_test_batches", True, "True is not a number"),
        ("limit_predict_batches", "some", "'some' is not a number"),
        ("overfit_batches", "x", "'x' is not a number"),
        ("gradient_clip_val", -1, "-1 is not a number from 0 up"),
        ("gradient_clip_val", "x", "'x' is not a number from 0 up"),
        ("max_time", 5, "5 is not a time such as 00:01:30:00"),
        ("fast_dev_run", "x", "'x' is not true, false or a number of steps"),
        ("deterministic", "x", "'x' is not true, false or warn"),
        ("profiler", 5, "5 is not the name of a profiler"),
        ("enable_checkpointing", "x", "'x' is not true or false"),
        ("detect_anomaly", "x", "'x' is not true or false"),
        ("benchmark", 1, "1 is not true or false"),
        ("accumulate_grad_batches", "lots", "'lots' is not a whole number of micro-batches from 1 up, nor auto"),
        ("accumulate_grad_batches", True, "True is not a whole number"),
        ("accumulate_grad_batches", 0, "0 is not a whole number"),
    ],
)
def test_what_a_flag_is_not(name: str, value: Any, words: str) -> None:
    flags = {"accumulate_grad_batches": 1, name: value}
    with pytest.raises(InputError) as error:
        check_flags(flags.pop("accumulate_grad_batches"), None, flags)
    assert str(error.value).startswith(f"trainer.{name}={words}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"max_epochs": -1, "max_steps": 0, "log_every_n_steps": 0, "num_nodes": 1, "num_sanity_val_steps": -1},
        {"limit_val_batches": 0, "limit_train_batches": 0.5, "overfit_batches": 3, "gradient_clip_val": 0},
        {"max_time": "00:01:30:00", "profiler": "simple", "deterministic": "warn", "fast_dev_run": 3},
        {"max_time": timedelta(1), "profiler": SimpleProfiler(), "deterministic": True, "fast_dev_run": True},
        {"max_time": {"minutes": 3}, "val_check_interval": 0.5, "detect_anomaly": False, "max_epochs": None},
    ],
)
def test_what_flags_are(flags: dict[str, Any]) -> None:
    check_flags("auto", None, dict(flags))


def test_a_static_graph_is_refused_where_batches_are_cut() -> None:
    """PyTorch would say INTERNAL ASSERT FAILED, in another process."""
    with pytest.raises(InputError, match=r"static_graph=True.*accumulate_grad_batches=1"):
        Trainer(accelerator="cpu", devices=2, strategy=DDPStrategy(static_graph=True), accumulate_grad_batches=2)
    Trainer(accelerator="cpu", devices=2, strategy=DDPStrategy(static_graph=True))
