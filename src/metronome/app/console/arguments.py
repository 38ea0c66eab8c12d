"""What was typed, put in the order and the words that Hydra takes. Imports nothing heavy."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from metronome.app.console.groups import chosen_by_default, files_by_group, folders_of
from metronome.app.errors.nearest import did_you_mean
from metronome.units import InputError

_FLAGS = ("-m", "--multirun", "-h", "--help", "--resolve")
# Keys that are typed without their group.
_OF_GROUPS = {
    "batch_size": "data.batch_size", "lr": "optimizer.lr", "learning_rate": "optimizer.lr",
    "max_epochs": "trainer.max_epochs", "epochs": "trainer.max_epochs", "devices": "trainer.devices",
}  # fmt: skip
# What `changes_and_packages` takes, in words for --help.
CHANGES = "values of that configuration to change; allow=mypackage,other lets it use packages of your own"
_SEVERAL = ("callbacks", "logger")  # groups of which files are taken together


def made_ready(arguments: Sequence[str], script: str) -> list[str]:
    """The arguments of a script as Hydra takes them.

    Flags come first: Hydra's parser takes none between overrides, and `+experiment=x -m seed=0,1` is what people type.
    A group that is not in the defaults gets its plus sign: `experiment=digits` is `+experiment=digits`.

    Raises:
        InputError: for `+name=` where the name is no group's but near to one: Hydra would add it to the configuration,
            where nobody would read it; or where the group has a file already. For `paper` where nothing reads it.
    """
    _check_paper([word for word in arguments if re.match(r"\+?paper[=.]", word)], Path(script).stem)
    folders = folders_of(arguments, script)
    groups, in_defaults = files_by_group(folders), chosen_by_default(folders)
    to_add = set(groups) - set(in_defaults)
    spelled = [_spelled(argument, to_add) for argument in arguments]
    for argument in spelled:
        if (added := re.fullmatch(r"\+(\w+)=([\w/,]+)", argument)) is not None:
            _check_added(added[1], added[2], groups, in_defaults)
    return sorted(spelled, key=lambda argument: not _is_flag(argument))


def changes_and_packages(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the words after a checkpoint the changes of its configuration, and the packages of `allow=`.

    >>> changes_and_packages(["data.batch_size=8", "allow=mine,other"])
    (['data.batch_size=8'], ['mine', 'other'])
    """
    changes = [word for word in words if not word.startswith("allow=")]
    allowed = [word.removeprefix("allow=") for word in words if word.startswith("allow=")]
    return changes, [package for names in allowed for package in names.split(",")]


def _check_paper(words: Sequence[str], command: str) -> None:
    if words and command != "plan":
        raise InputError(f"{words[0]} is for devices that are not here, which only scripts/plan.py knows; leave it out")
    if words and not any(re.match(r"\+?paper=", word) for word in words):
        raise InputError(f"{words[0]} changes a number of a cluster; choose one too: paper=cluster {words[0]}")


def _check_added(name: str, value: str, groups: Collection[str], in_defaults: Mapping[str, str]) -> None:
    if name in in_defaults:
        both = f", or {name}=[{in_defaults[name]},{value}] for both" if name in _SEVERAL else ""
        raise InputError(f"+{name}={value}: {name} has a file already; write {name}={value} to take its place{both}")
    if name not in groups and (near := did_you_mean(name, groups, sign="+")):
        raise InputError(f"no group '{name}'; {near}")
    if name in _OF_GROUPS:
        raise InputError(f"+{name}={value} would be read by nothing; did you mean {_OF_GROUPS[name]}={value}")


def _is_flag(argument: str) -> bool:
    return argument in _FLAGS or re.match("--[a-z-]+=", argument) is not None


def _spelled(argument: str, to_add: set[str]) -> str:
    """An argument as Hydra takes it."""
    if argument == "hydra/sweeper=optuna":
        return "hydra/sweeper=search"  # ours, which goes on after a kill; Hydra wants another name for it
    key, equals, value = argument.partition("=")
    if equals and key in to_add:
        return f"+{argument}"
    # Lightning's names for checkpoints (`epoch=3-step=60.ckpt`) are no plain word to Hydra's parser.
    plain = key != "ckpt_path" or not set(value) & set("= ") or value[0] in "'\""
    return argument if plain else f"{key}='{value}'"
