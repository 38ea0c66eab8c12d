"""What callbacks and schedulers monitor: whether less or more of it is better, worked out where nobody has said it.

A watcher has a `monitor`, the name of a metric, and a `mode`, min or max: Lightning's ModelCheckpoint and
EarlyStopping, `metronome.models.schedulers.Plateau`. One that nobody has told its mode has `open_mode`: the key by
which to tell it.
"""

import logging
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torchmetrics import Metric, MetricCollection

from metronome.units import InputError, direction_of
from metronome.units.direction import MODES

log = logging.getLogger("metronome.training")

_STAGES = ("train", "val", "valid", "validation", "test")
_BETTER = {"min": "less", "max": "more"}


def settle_all(trainer: L.Trainer, module: L.LightningModule) -> None:
    """`settle` for all callbacks."""
    for callback in trainer.callbacks:  # pyright: ignore
        settle(callback, module)


def settle(watcher: Any, module: nn.Module) -> None:
    """Give a watcher whose mode is open the one that its metric has.

    Raises:
        InputError: if neither a torchmetric of the module nor the name tells.
    """
    key, name = getattr(watcher, "open_mode", None), getattr(watcher, "monitor", None)
    if key is not None and name is not None:
        put_mode(watcher, direction_in(module, name)[0] or no_direction(name, key))


def no_direction(name: str, key: str = "mode") -> NoReturn:
    """Raises InputError: nothing tells. `key` is the one to say it with."""
    raise InputError(
        f"monitor={name}: whether lower or higher is better cannot be told from its name; add {key}=min or {key}=max"
    )


def check_mode(mode: Any, key: str = "mode") -> None:
    """Raises InputError for one that is none; None is one that is worked out."""
    if mode is not None and mode not in MODES:
        raise InputError(f"{key}={mode} is neither min nor max; null works it out from the metric")


def put_mode(watcher: Any, mode: str) -> None:
    """Change the mode of a watcher that has not seen a value yet."""
    if watcher.mode == mode:
        return
    watcher.mode, worst = mode, torch.tensor(float("inf") if mode == "min" else -float("inf"))
    if isinstance(watcher, ModelCheckpoint):
        watcher.kth_value = worst
    elif isinstance(watcher, EarlyStopping):
        watcher.best_score, watcher.min_delta = worst, -watcher.min_delta  # Lightning keeps it with the sign


def direction_in(module: nn.Module, name: str) -> tuple[str | None, str]:
    """Whether less or more of a metric is better, and what tells it.

    A torchmetric of the module that is called like it counts (`val_acc` for `val/acc`, or a member of a
    MetricCollection by the name that this gives it), else the words of the name do.
    """
    found: dict[str, str] = {}
    for called, metric in _metrics(module):
        if (called == name or _is_called(called, name)) and (mode := _mode_of(metric)) is not None:
            found[mode] = type(metric).__name__
    if len(found) == 1:
        return next(iter(found.items()))
    return direction_of(name), "its name"


def _metrics(module: nn.Module) -> Iterator[tuple[str, Metric]]:
    """The torchmetrics of a module, by what they are called in it or by their collection."""
    inside: set[int] = set()
    for path, part in module.named_modules():
        if isinstance(part, MetricCollection):
            for called, metric in part.items(copy_state=False):
                inside.add(id(metric))
                yield called, metric
        elif isinstance(part, Metric) and id(part) not in inside:
            yield path, part


def _is_called(path: str, name: str) -> bool:
    """Whether a metric of the module has the words of a name: `val_acc` or `acc` for `val/acc`."""
    words, those = _words(path), _words(name)
    return words == those or (bool(those) and those[0] in _STAGES and words == those[1:])


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _mode_of(metric: Any) -> str | None:
    """As a torchmetric says it; many, such as a mean, do not."""
    is_more = getattr(metric, "higher_is_better", None)
    return None if not isinstance(is_more, bool) else "max" if is_more else "min"


# ---- in a fit -------------------------------------------------------------------------------------------


def watchers(trainer: L.Trainer) -> list[Any]:
    """All that watch a metric in a fit."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    found = [c for c in callbacks if isinstance(c, ModelCheckpoint | EarlyStopping)]
    found += [s for s in schedulers if callable(getattr(s, "judge", None))]
    return [w for w in found if isinstance(getattr(w, "monitor", None), str) and getattr(w, "mode", None) in MODES]


def say_contradictions(trainer: L.Trainer, said: set[str]) -> None:
    """One line for each mode that is not the one that its metric has: it was given, and counts.

    Args:
        said: what was told before; changed.
    """
    for watcher in watchers(trainer):
        mode, by = direction_in(trainer.lightning_module, watcher.monitor)
        if mode is not None and mode != watcher.mode:
            _say_other(trainer, watcher, mode, by, said)


def look_at_logged(trainer: L.Trainer, results: Any, said: set[str]) -> None:
    """At the end of a validation in a fit, before anything is judged by it: what was logged knows its direction.

    Raises:
        InputError: if it is another one than the name has told.
    """
    logged: dict[str, Any] = {}
    for _, entry in results.valid_items():
        name, forked = results._forked_name(entry, False)
        logged[name] = logged[forked] = None if entry.is_tensor else entry.value
    for watcher in watchers(trainer):
        mode, name = _mode_of(logged.get(watcher.monitor)), watcher.monitor
        if name not in logged and logged and trainer.sanity_checking and _words(name)[:1] == ["val"]:
            # Some log nothing of it in the sanity check, so this is no error yet.
            line = f"monitor={name} is not among what the validation logs: {', '.join(sorted(logged))}"
            _say(trainer, line, line, said)
        if mode is None or mode == watcher.mode:
            continue
        kind = type(logged[name]).__name__
        if (key := getattr(watcher, "open_mode", None)) is not None:
            raise InputError(
                f"monitor={name}: it is logged as {kind}, of which {_BETTER[mode]} is better, and its name says "
                f"{_BETTER[watcher.mode]}; add {key}=min or {key}=max"
            )
        _say_other(trainer, watcher, mode, kind, said)


def _say_other(trainer: L.Trainer, watcher: Any, mode: str, by: str, said: set[str]) -> None:
    line = f"mode={watcher.mode} counts for {watcher.monitor}, of which {_BETTER[mode]} is better by {by}"
    _say(trainer, line, f"{watcher.mode} {watcher.monitor}", said)


def _say(trainer: L.Trainer, line: str, about: str, said: set[str]) -> None:
    if about not in said and trainer.is_global_zero:
        said.add(about)
        log.warning(line)
