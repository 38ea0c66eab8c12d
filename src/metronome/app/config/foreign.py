"""A LightningModule written elsewhere, and the groups `optimizer` and `scheduler`.

They are given to a module that takes them; for another, what was typed or an experiment sets of them is refused. A
scheduler of ours gets the plan, for which such a module does not ask.
"""

import inspect
import logging
import re
from copy import deepcopy
from functools import partial
from typing import Any

import lightning as L
from hydra.utils import get_object
from lightning.pytorch.callbacks import Callback

from metronome.app.config.chosen import chosen_by_files
from metronome.models.schedulers import constant
from metronome.runs.overrides import key_and_value
from metronome.units import Duration, InputError

log = logging.getLogger("metronome")

_GROUPS = ("optimizer", "scheduler")


def give_groups(settings: dict[str, Any], written: dict[str, Any], overrides: list[str]) -> None:
    """Put the groups into the model's part of the settings, if its class takes them and its file says nothing of them.

    Args:
        settings: resolved; changed.
        written: the same as it is written, with `${...}`.
        overrides: what was typed.

    Raises:
        InputError: for one that was typed, or that an experiment sets beside its model, and that nothing in the
            configuration takes. Where only the model was typed one line says it.
    """
    model = settings.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("_target_"), str):
        return
    said: list[str] = []
    text = str({name: part for name, part in written.items() if name not in _GROUPS})
    for group in _GROUPS:
        if group in model or re.search(rf"\$\{{\.*{group}\b", text):
            continue
        takes = _parameters(model["_target_"])
        if takes is None:
            break  # there is no such class, or it does not say: whoever makes it finds out
        # A default of its own (a name, a number) says that it wants something else under this name.
        if group in takes and takes[group].default in (inspect.Parameter.empty, None):
            if settings.get(group) is not None:
                model[group] = deepcopy(settings[group])
            continue
        if f"~{group}" in overrides:
            settings.pop(group, None)  # what a file leaves of it
            continue
        keys = [(key_and_value(override)[0], override) for override in overrides]
        typed = [override for key, override in keys if key == group or key.startswith(f"{group}.")]
        mend = f"give its __init__ a parameter named {group}, or write ${{{group}...}} in the model's file"
        if typed:
            raise InputError(
                f"{typed[0]} would change nothing: {model['_target_']} takes no {group}; leave it out, {mend}"
            )
        if in_file := chosen_by_files(group, written):
            said.append(
                f"{in_file}, as the experiment has it, changes nothing: {model['_target_']} takes no {group}; take it "
                f"out of the file or say ~{group}, {mend}"
            )
    if said and not any(key_and_value(override)[0].split(".")[0] == "model" for override in overrides):
        raise InputError(said[0])
    for line in said:  # it was right for the model that the experiment has
        log.warning(line)


def _parameters(target: str) -> Any:
    try:
        return inspect.signature(get_object(target)).parameters
    except Exception:  # its import may fail in any way
        return None


class GivesPlan(Callback):
    """Makes a scheduler for a module that calls it with the optimizer alone, adding what it wants to know of the run.

    To a module that asks what the scheduler takes it looks like the partial that it is made of.

    Args:
        make: a partial of the scheduler.
        trainer: of the run.

    Raises:
        InputError: if the run's number of steps is not known; as training starts, if the module steps it by epochs.
    """

    def __init__(self, make: Any, trainer: L.Trainer) -> None:
        self.make, self.trainer, self.made = make, trainer, []
        self.func, self.keywords, self.name = make.func, make.keywords, make.func.__name__
        self.__signature__ = inspect.signature(make)
        trainer.callbacks.append(self)  # pyright: ignore

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        trainer: Any = self.trainer
        lacks, plan = _lacks(self.make) - named.keys(), getattr(trainer, "plan", None)
        can_do_without = "plan" in lacks and self.__signature__.parameters["plan"].default is None
        if "plan" in lacks and (plan is not None or not can_do_without):
            named["plan"] = plan
        if "total_steps" in lacks:
            named["total_steps"] = trainer.estimated_stepping_batches
        if any(named.get(name, 0) in (None, float("inf")) for name in lacks):
            raise InputError(f"scheduler {self.name} must know the number of steps in the training; give the "
                             "budget in epochs, steps or samples, with a data set of known length")  # fmt: skip
        scheduler = self.make(*arguments, **named)
        if lacks:  # else the module has told it in what units it goes
            self.made.append(scheduler)
        return scheduler

    def __deepcopy__(self, memo: Any) -> "GivesPlan":
        return self  # Lightning copies hyperparameters; the trainer is the same

    def __reduce__(self) -> Any:
        return self.make.__reduce__()  # Lightning takes out of the hyperparameters what cannot be pickled

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.func is constant and Duration.parse(self.keywords.get("warmup", "0 steps")).value == 0:
            return  # the same, however it is stepped
        of_module = type(pl_module).__name__
        for config in trainer.lr_scheduler_configs:
            is_ours = any(config.scheduler is scheduler for scheduler in self.made)
            if is_ours and (config.interval != "step" or config.frequency != 1):
                every = f"every {config.frequency} {config.interval}s"
                if config.frequency == 1:
                    every = f"once an {config.interval}"
                raise InputError(
                    f"scheduler {self.name} goes by steps, and {of_module} has it stepped {every}; let "
                    'configure_optimizers return it with "interval": "step"'
                )


def wants_to_know(make: Any) -> bool:
    """Whether a partial of a scheduler lacks something that only the run knows."""
    return isinstance(make, partial) and bool(_lacks(make))


def _lacks(make: Any) -> set[str]:
    try:
        return ({"plan", "total_steps"} & inspect.signature(make).parameters.keys()) - make.keywords.keys()
    except (TypeError, ValueError):
        return set()
