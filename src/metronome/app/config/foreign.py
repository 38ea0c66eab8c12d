"""A LightningModule written elsewhere, and the groups `optimizer` and `scheduler`.

They are given to a module that takes them; for another, what was typed of them is refused. A scheduler of ours gets the
plan, for which such a module does not ask.
"""

import inspect
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import lightning as L
from hydra.utils import get_object
from lightning.pytorch.callbacks import Callback

from metronome.runs.overrides import key_and_value
from metronome.units import InputError

_GROUPS = ("optimizer", "scheduler")


def give_groups(settings: dict[str, Any], written: dict[str, Any], overrides: list[str]) -> None:
    """Put the groups into the model's part of the settings, if its class takes them and its file says nothing of them.

    Args:
        settings: resolved; changed.
        written: the same as it is written, with `${...}`.
        overrides: what was typed.

    Raises:
        InputError: for one that was typed, and that nothing in the configuration takes.
    """
    model = settings.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("_target_"), str):
        return
    text = str({name: part for name, part in written.items() if name not in _GROUPS})
    for group in _GROUPS:
        if group in model or re.search(rf"\$\{{\.*{group}\b", text):
            continue
        takes = _parameters(model["_target_"])
        if takes is None:
            return  # there is no such class, or it does not say: whoever makes it finds out
        # A default of its own (a name, a number) says that it wants something else under this name.
        if group in takes and takes[group].default in (inspect.Parameter.empty, None):
            if settings.get(group) is not None:
                model[group] = deepcopy(settings[group])
            continue
        keys = [(key_and_value(override)[0], override) for override in overrides]
        typed = [override for key, override in keys if key == group or key.startswith(f"{group}.")]
        if typed:
            raise InputError(
                f"{typed[0]} would change nothing: {model['_target_']} takes no {group}; leave it out, give its "
                f"__init__ a parameter named {group}, or write ${{{group}...}} in the model's file"
            )


def _parameters(target: str) -> Any:
    try:
        return inspect.signature(get_object(target)).parameters
    except Exception:  # its import may fail in any way
        return None


class GivesPlan(Callback):
    """Makes a scheduler for a module that calls it with the optimizer alone, adding what it wants to know of the run.

    Args:
        make: a partial of the scheduler.
        name: of it, for words.

    Raises:
        InputError: if the run's number of steps is not known; as training starts, if the module steps it by epochs.
    """

    def __init__(self, make: Callable[..., Any], name: str, trainer: L.Trainer) -> None:
        self.make, self.name, self.trainer, self.made = make, name, trainer, []
        trainer.callbacks.append(self)  # pyright: ignore

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        wanted, bound = inspect.signature(self.make).parameters, {*getattr(self.make, "keywords", {}), *named}
        if "plan" in wanted and "plan" not in bound:
            if (plan := getattr(self.trainer, "plan", None)) is None:
                raise InputError(f"scheduler {self.name} must know the number of steps in the training; give the "
                                 "budget in epochs, steps or samples, with a data set of known length")  # fmt: skip
            named["plan"] = plan
        self.made.append(self.make(*arguments, **named))
        return self.made[-1]

    def __deepcopy__(self, memo: Any) -> "GivesPlan":
        return self  # Lightning copies hyperparameters; the trainer is the same

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for config in trainer.lr_scheduler_configs:
            if any(config.scheduler is scheduler for scheduler in self.made) and config.interval != "step":
                raise InputError(
                    f"scheduler {self.name} goes by steps, and {type(pl_module).__name__} has it stepped once an "
                    f'{config.interval}; let configure_optimizers return it with "interval": "step"'
                )


def wants_plan(make: Any) -> bool:
    """Whether a partial of a scheduler lacks the plan."""
    try:
        return callable(make) and "plan" in inspect.signature(make).parameters and "plan" not in make.keywords
    except (AttributeError, TypeError, ValueError):
        return False
