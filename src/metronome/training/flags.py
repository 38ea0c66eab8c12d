"""What Lightning's flags must be: it takes many of them without a look, and fails later, or counts on with nonsense.

Beside the flags: the strategy, the callbacks and the module that come with them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.nn import SyncBatchNorm

from metronome.training.lightning_private import has_static_graph
from metronome.training.sharded import ShardedStrategy
from metronome.training.state import TrainingState
from metronome.units import Duration, InputError


def _whole(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {least} up", lambda value: _is_number(value, int) and value >= least


def _is_number(value: object, kind: Any = int | float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_interval(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d+(:\d+){3}", value) is not None
    return isinstance(value, dict | timedelta) or _is_number(value)


# Of each flag what it must be, in words, and how to tell. None is Lightning's default for all of them.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("max_epochs", "min_epochs", "max_steps", "min_steps", "num_sanity_val_steps"), _whole(-1)),
    "log_every_n_steps": _whole(0),
    **dict.fromkeys(("num_nodes", "check_val_every_n_epoch"), _whole(1)),
    **dict.fromkeys(
        ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches"),
        ("a number", _is_number),
    ),
    "gradient_clip_val": ("a number from 0 up", lambda value: _is_number(value) and value >= 0),
    "val_check_interval": (
        "a number of steps, a part of an epoch or a time such as 00:01:30:00", lambda value: _is_interval(value)
    ),
    "reload_dataloaders_every_n_epochs": _whole(0),
    "max_time": ("a time such as 00:01:30:00", lambda value: isinstance(value, str | dict | timedelta)),
    "fast_dev_run": ("true, false or a number of steps", lambda value: isinstance(value, int)),
    "deterministic": ("true, false or warn", lambda value: value == "warn" or isinstance(value, bool)),
    "profiler": ("the name of a profiler", lambda value: isinstance(value, str | Profiler)),
    **dict.fromkeys(
        ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "detect_anomaly", "benchmark",
         "inference_mode", "barebones"),
        ("true or false", lambda value: isinstance(value, bool)),
    ),
}  # fmt: skip


def plain(value: Any) -> Any:
    """A number of numpy's, also as a value in a dict, as one of Python's."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _check_kinds(flags: Mapping[str, Any]) -> None:
    """Raises InputError for a flag that is not what it must be."""
    for name, (words, holds) in _KINDS.items():
        value = flags.get(name)
        if value is not None and not holds(value):
            raise InputError(f"trainer.{name}={value!r} is not {words}")


def check_flags(accumulate: object, budget: object, flags: dict[str, Any]) -> None:
    """Raises InputError for a flag that cannot mean the right thing here; limits give way to a budget."""
    is_number = isinstance(accumulate, int) and not isinstance(accumulate, bool) and accumulate >= 1
    if not is_number and accumulate != "auto":
        raise InputError(
            f"trainer.accumulate_grad_batches={accumulate!r} is not a whole number of micro-batches from 1 up, nor auto"
        )
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if flags.get(name) is not None and flags[name] == 0:
            raise InputError(
                f"trainer.{name}=0 is no interval; to leave validation out use trainer.limit_val_batches=0"
            )
    _check_kinds(flags)
    given = [f"{n}={flags[n]}" for n in ("max_epochs", "max_steps", "max_time") if flags.get(n) not in (None, -1)]
    if budget is not None and given:
        raise InputError(f"two budgets: budget={budget} and trainer.{given[0]}; give one of them")
    if budget is not None:
        for name in ("max_epochs", "max_steps", "max_time"):
            flags.pop(name, None)
    callbacks = flags.get("callbacks")
    check_callbacks([callbacks] if isinstance(callbacks, Callback) else callbacks or [])


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Raises InputError for a callback that joins micro-batches into batches."""
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise InputError(
            "GradientAccumulationScheduler changes the batch by joining micro-batches, which never happens here; to "
            "grow the batch use data.batch_growth, to cut it up trainer.accumulate_grad_batches"
        )


def limits_of(budget: Duration | None) -> dict[str, Any]:
    """Lightning's flags that express a budget. One in samples, or in part of an epoch, waits for the data."""
    if budget is None:
        return {}
    if budget.unit == "percent":
        raise InputError(f"budget={budget} is a part of nothing; write for example budget='20 epochs'")
    if budget.unit == "seconds":
        if float(budget.value) >= timedelta.max.total_seconds():
            raise InputError(f"budget={budget} is longer than any clock; write for example budget='90 min'")
        return {"max_time": timedelta(seconds=float(budget.value)), "max_epochs": -1}
    if budget.unit == "epochs" and budget.value == int(budget.value):
        return {"max_epochs": int(budget.value)}
    steps = int(budget.value) if budget.unit == "steps" else -1
    return {"max_steps": steps, "max_epochs": -1}


def check_strategy(trainer: L.Trainer, state: TrainingState) -> None:
    """Raises InputError for a strategy under which batches cannot be shared out and cut up as they are here."""
    strategy = trainer.strategy
    if isinstance(strategy, ShardedStrategy):
        strategy.check_sizes()
    elif isinstance(strategy, ModelParallelStrategy):
        raise InputError(
            "ModelParallelStrategy shares one model out over devices, and takes batches for one device's; use "
            "trainer=fsdp, or metronome.training.sharded.ShardedStrategy"
        )
    if state.may_be_cut and strategy.handles_gradient_accumulation:
        raise InputError(
            f"strategy {type(strategy).__name__} accumulates gradients by itself; "
            "use trainer.accumulate_grad_batches=1 with it"
        )
    if state.may_be_cut and has_static_graph(strategy):
        raise InputError(
            "DDPStrategy(static_graph=True) fails inside of PyTorch where gradients are accumulated; leave it out, or "
            "use trainer.accumulate_grad_batches=1"
        )
    if state.auto_accumulate and trainer.world_size > 1 and not isinstance(strategy, DDPStrategy):
        raise InputError(
            f"trainer.accumulate_grad_batches=auto on several devices needs the strategy ddp, not "
            f"{type(strategy).__name__}; give a number"
        )


def check_module(trainer: L.Trainer, state: TrainingState) -> None:
    """Refuse what the attached module brings along and cannot be done here. Raises InputError."""
    model = trainer.lightning_module
    check_callbacks(trainer.callbacks)  # pyright: ignore
    if not model.automatic_optimization and state.may_be_cut:
        raise InputError(
            f"{type(model).__name__} optimizes manually, so its batches cannot be cut up for it; "
            f"use trainer.accumulate_grad_batches=1, not {'auto' if state.auto_accumulate else state.accumulate}"
        )
    if state.auto_accumulate and trainer.world_size > 1 and any(isinstance(m, SyncBatchNorm) for m in model.modules()):
        raise InputError(
            "SyncBatchNorm makes devices meet in the middle of a step, where one that is out of memory cannot tell;"
            " give trainer.accumulate_grad_batches a number, not auto"
        )
