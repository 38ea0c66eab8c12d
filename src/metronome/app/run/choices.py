"""What a run was asked for, in the few words that tell the runs of a table apart."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metronome.runs.nested import dig
from metronome.runs.overrides import key_and_value, what_it_is
from metronome.runs.sweeps import own_overrides, sweep_of
from metronome.units import Plan

Choice = str | bool | int | float
# Beside what was typed; those that a configuration does not have are left out.
_MAIN = ("optimizer.lr", "optimizer.momentum", "trainer.accumulate_grad_batches", "seed")
_WATCHES = ("callbacks", "logger")  # what looks on makes no other run


def choices(experiment: str, overrides: Iterable[str], config: dict[str, Any], plan: Plan | None) -> dict[str, Choice]:
    """The main choices of a run and what was typed, by their keys: plain values, numbers where they are.

    Args:
        experiment, overrides, config, plan: of the run.

    >>> config = {"data": {"batch_size": 8}, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}, "seed": 0}
    >>> choices("digits", ["+experiment=digits", "budget=5epochs"], config, None)
    {'experiment': 'digits', 'optimizer': 'SGD', 'data.batch_size': 8, 'optimizer.lr': 0.1, 'seed': 0, \
'budget': '5epochs'}
    """
    network = dig(config, "model.network._target_") or dig(config, "model._target_")
    made = {"model": network} | {group: dig(config, f"{group}._target_") for group in ("optimizer", "scheduler")}
    found: dict[str, Any] = {"experiment": experiment}
    found |= {name: str(target).rpartition(".")[2] for name, target in made.items() if target}
    # As a number also where it was given as `full`.
    found["data.batch_size"] = dig(config, "data.batch_size") if plan is None else plan.batch_size
    found |= {key: dig(config, key) for key in _MAIN}
    if plan is not None:
        found |= {"epochs": plan.epochs, "steps": plan.total_steps}
    for override in what_it_is(overrides):
        key, text = key_and_value(override)
        if key.split(".")[0] in _WATCHES:
            continue
        value = dig(config, key)
        found.setdefault(key, value if isinstance(value, Choice) else text)
    return {key: value for key, value in found.items() if isinstance(value, Choice)}


def swept(overrides: Iterable[str], folder: Path) -> tuple[str, ...]:
    """The keys that are not the same in all jobs of the sweep in this folder; none where there is no sweep."""
    own = own_overrides(overrides, folder) if sweep_of(folder) else []
    return tuple(key_and_value(override)[0] for override in own)
