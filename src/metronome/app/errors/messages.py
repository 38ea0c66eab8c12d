"""Errors in one line: a user's mistake, or a run that cannot go on; anything else is an error in the code."""

import errno
import re
import sys
import traceback
from pathlib import Path

import yaml
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import ConfigKeyError, ConfigTypeError, InterpolationKeyError, OmegaConfBaseException

from metronome.app.errors.extras import how_to_install, missing_package
from metronome.app.errors.layers import layer_error
from metronome.app.errors.lost import lost_company
from metronome.app.errors.nearest import did_you_mean
from metronome.app.errors.targets import not_there
from metronome.units import InputError, RunFailed

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def mistake(error: BaseException) -> str | None:
    """The line to tell for a user's mistake, or for a run that cannot go on; None for an error in the code."""
    if isinstance(error, InputError | RunFailed):
        return one_line(error)
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if cause is not None and (line := mistake(cause)) is not None:
            return line
        return _instantiation(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read the override '{error.override}'; write key=value, with quotes around a value of many words"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _composition(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be a string"):
        return "a group takes the name of one of its files, not null; --help lists them"
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark) is not None:
        return f"cannot read {mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, ValueError) and str(error).startswith("Unable to configure handler") and error.__cause__:
        return mistake(error.__cause__)
    if isinstance(error, ValueError) and _raised_in(error) in ("hydra", "hydra_plugins", "optuna", "yaml"):
        return one_line(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_FULL):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror)
    memory = sys.modules.get("metronome.training.guards.memory")
    if memory is not None and memory.is_out_of_memory(error):
        return f"out of memory outside of a step: {memory.one_line(error)}; use a smaller batch or model"
    # Lightning's own word for a user's mistake; it is imported by the time it can be raised.
    exceptions = sys.modules.get("lightning.pytorch.utilities.exceptions")
    if exceptions is not None and isinstance(error, exceptions.MisconfigurationException):
        return one_line(error)
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return one_line(error)
    return lost_company(error) or layer_error(error)


def _raised_in(error: BaseException) -> str:
    """The package in which an error was raised; for texts in another encoding the one that reads them."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name.split(".")[0] for name in names if name != "codecs"]
    return packages[-1] if packages else ""


def cannot_go_on(error: BaseException) -> bool:
    """Whether an error is nobody's mistake, but of the run or the machine."""
    is_of_disk = isinstance(error, OSError) and error.errno in _DISK_FULL
    return isinstance(error, RunFailed) or is_of_disk or lost_company(error) is not None


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    text = str(error).strip()
    if text.startswith("Caught ") and "DataLoader worker" in text:
        # Raised in a worker process, a message comes wrapped in that process's traceback.
        text = text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.split()) or type(error).__name__


def _missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    names = sorted(set(error.options or ()) - {"base"})  # which only the others build on
    options = f"there are: {', '.join(names)}" if names else ""
    extra = "ray" if option.startswith("ray") and group == "hydra/launcher" else "sweeps"
    packages = f"others come with: pip install -e '.[{extra}]'" if group in ("hydra/sweeper", "hydra/launcher") else ""
    if not group or not (options or packages):
        return _composition(error)
    return "; ".join(filter(None, (f"no {group} '{option}'", did_you_mean(option, names), options, packages)))


def _composition(error: Exception) -> str:
    text = one_line(error)
    ours = "InputError raised while resolving interpolation: "
    if text.startswith(ours):  # by one of our resolvers; OmegaConf keeps only the words
        return re.sub(r" (full_key|object_type|reference_type)[:=].*", "", text.removeprefix(ours))
    cause = error.__cause__
    if (several := re.match(r"Ambiguous value for argument '([^=]+)=(.*?)'", text)) is not None:
        key, values = several.groups()
        return f"{key}={values} is several values: add -m for a run with each, or write '{key}=[{values}]' for a list"
    if (option := re.search(r"Could not load '([\w/]+)/(\w+)'", text)) is not None:  # one of several in a list
        folders = re.findall(r"path=file://(\S+)", text)
        names = sorted({file.stem for folder in folders for file in Path(folder).glob(f"{option[1]}/*.yaml")})
        return "; ".join(filter(None, (f"no {option[1]} '{option[2]}'", did_you_mean(option[2], names))))
    if "No match in the defaults list" in text and (name := re.search(r"override '([^']+)'", text)):
        return f"{name.group(1)} is chosen with a plus sign: write +{name.group(1)}=..."
    if isinstance(cause, ConfigKeyError | AttributeError) and (name := re.search(r"override '([^']+)'", text)):
        return _unknown_key(name.group(1), cause)
    if isinstance(cause, ConfigTypeError) and (name := re.match(r"Error merging override '?(\S+?)=(.*)", text)):
        key = name.group(1)
        kinds = f"{key} has names and values, and takes no list; write '{key}={{<name>: <value>}}' or {key}.<name>=..."
        return kinds if "ListConfig" in str(cause) else f"{name.group(0).partition('override ')[2]}: {one_line(cause)}"
    if isinstance(error, InterpolationKeyError) or isinstance(cause, InterpolationKeyError):
        inner = error if isinstance(error, InterpolationKeyError) else cause
        text = f"{getattr(inner, 'full_key', 'a key')} refers to a key that is not there: {one_line(inner or error)}"
    text, key = re.sub(r" (full_key|object_type|reference_type)[:=].*", "", text), getattr(error, "full_key", None)
    return text if not key or key in text else f"{key}: {text}"


def _unknown_key(key: str, cause: Exception) -> str:
    inside = getattr(cause, "full_key", None)
    if isinstance(inside, str) and inside.startswith(f"{key}."):  # in a table that was given as a whole
        key = inside
    parent, _, name = key.rpartition(".")
    node = getattr(cause, "parent_node", None)
    siblings = sorted(str(k) for k in node) if node is not None and hasattr(node, "keys") else []
    first = key.partition(".")[0]
    if parent and first not in siblings and {"data", "model", "trainer"} <= set(siblings):
        parent, name = "", first  # it is the group that is not there
    near = did_you_mean(name, siblings, sign=f"{parent}." if parent else "")
    if not parent and not near and node is not None:  # or it is a key of a group: lr=0.1
        inside = [f"{group}.{name}" for group in ("data", "optimizer", "trainer") if name in (node.get(group) or ())]
        near = f"did you mean {' or '.join(inside)}" if inside else ""
    allowed = f"{parent or 'the configuration'} has: {', '.join(siblings)}" if siblings and not near else ""
    no_key = f"no key '{name}' in {parent or 'the configuration'}"
    return "; ".join(filter(None, (no_key, near, allowed, f"to add a new one write +{key}=...")))


def _instantiation(error: InstantiationException) -> str:
    text = one_line(error)
    within = key.group(1) if (key := re.search(r"full_key: (\S+)", text)) else ""
    where = ".".join(filter(None, [getattr(error, "where", ""), within]))  # Hydra knows no more than it was given
    target = name.group(1) if (name := re.search(r"target '([^']+)'", text)) else "an object"
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason = re.sub(r" ?(set env var HYDRA_FULL_ERROR=1.*|full_key:.*)", "", one_line(root), flags=re.I)
    package = missing_package(root)
    if isinstance(root, ImportError | AttributeError) and (package is None or f"{target}.".startswith(f"{package}.")):
        missing = not_there(target)
        if missing is not None:
            return f"{where or '_target_'}={target}: {missing}"
    if package is not None:
        return f"{target} needs the package {package}; install it with: {how_to_install(package)}"
    return f"cannot make {target}{f' for {where}' if where else ''}: {reason}"
