"""What Lightning's flags must be: it takes many of them without a look, and fails later, or counts on with nonsense."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from lightning.pytorch.profilers import Profiler

from metronome.units import InputError


def _whole(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {least} up", lambda value: _is_number(value, int) and value >= least


def _is_number(value: object, kind: Any = int | float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


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


def check_kinds(flags: Mapping[str, Any]) -> None:
    """Raises InputError for a flag that is not what it must be."""
    for name, (words, holds) in _KINDS.items():
        value = flags.get(name)
        if value is not None and not holds(value):
            raise InputError(f"trainer.{name}={value!r} is not {words}")
