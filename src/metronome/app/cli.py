"""What every script shares: a user's mistake is told in one line, with a non-zero exit and no traceback."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import ConfigKeyError, InterpolationKeyError, OmegaConfBaseException

from metronome.app.names import register_resolvers
from metronome.units import InputError, RunFailed

EXIT_FAILED, EXIT_INPUT, EXIT_SIGINT, EXIT_SIGTERM = 1, 2, 130, 143


class JobFailed(Exception):
    """A run ended with an error that has been told already; a sweep goes on with its next job."""


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """While it lasts, SIGTERM raises SystemExit, so that a run that is told to stop leaves its result.

    While Lightning trains, it puts a handler of its own in front, which lets the step end first.
    """

    def stop(*_: object) -> None:
        if signal.getsignal(signal.SIGTERM) is stop:
            sys.exit(EXIT_SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Untouched(BaseException):
    """Carries an error past Hydra, which prints its own words about every `Exception` of a job."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def past_hydra() -> Iterator[None]:
    """Around a job: an error reaches `command_line` as it was raised. Only that of a sweep's job stays with Hydra."""
    try:
        yield
    except JobFailed:
        raise
    except Exception as error:
        raise _Untouched(error) from error


@contextmanager
def command_line() -> Iterator[None]:
    """Around a script's main: registers the resolvers, and tells errors in one line.

    `HYDRA_FULL_ERROR=1` shows the whole traceback instead.
    """
    register_resolvers()
    # Hydra's parser takes no flag between overrides, and `+experiment=x -m seed=0,1` is what people type.
    sys.argv[1:] = sorted(map(_spelled, sys.argv[1:]), key=lambda argument: argument not in ("-m", "--multirun"))
    whole_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors itself, over many lines
    try:
        try:
            yield
        except _Untouched as carrier:
            raise carrier.error from carrier.error.__cause__
    except JobFailed:
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGINT)
    except Exception as error:
        line = mistake(error)
        if line is None or whole_traceback:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(EXIT_FAILED if isinstance(error, RunFailed) else EXIT_INPUT)
    finally:
        if not whole_traceback:
            del os.environ["HYDRA_FULL_ERROR"]


def _spelled(argument: str) -> str:
    """An argument as Hydra takes it."""
    if argument == "hydra/sweeper=optuna":
        return "hydra/sweeper=search"  # ours, which goes on after a kill; Hydra wants another name for it
    # Lightning's names for checkpoints (`epoch=3-step=60.ckpt`) are no plain word to Hydra's parser.
    key, _, path = argument.partition("=")
    plain = key != "ckpt_path" or not set(path) & set("= ") or path[0] in "'\""
    return argument if plain else f"{key}='{path}'"


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
        # One of our own resolvers may have raised it.
        return mistake(error.__cause__) if isinstance(error.__cause__, InputError) else _composition(error)
    if isinstance(error, ValueError) and str(error).startswith("Config group override must be a string"):
        return "a group takes the name of one of its files, not null; --help lists them"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return f"out of memory outside of a step: {one_line(error).split('. ')[0]}; use a smaller batch or model"
    # Lightning's own word for a user's mistake; it is imported by the time it can be raised.
    exceptions = sys.modules.get("lightning.pytorch.utilities.exceptions")
    if exceptions is not None and isinstance(error, exceptions.MisconfigurationException):
        return one_line(error)
    return None


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    text = str(error).strip()
    if text.startswith("Caught ") and "DataLoader worker" in text:
        # Raised in a worker process, a message comes wrapped in that process's traceback.
        text = text.splitlines()[-1].split(": ", 1)[-1]
    return " ".join(text.split()) or type(error).__name__


def _missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = ", ".join(sorted(error.options)) if error.options else ""
    if not group or not options:
        return one_line(error)
    return f"no {group} '{option}'; there are: {options}"


def _composition(error: Exception) -> str:
    text = one_line(error)
    cause = error.__cause__
    if "No match in the defaults list" in text and (name := re.search(r"override '([^']+)'", text)):
        return f"{name.group(1)} is chosen with a plus sign: write +{name.group(1)}=..."
    if isinstance(cause, ConfigKeyError | AttributeError) and (name := re.search(r"override '([^']+)'", text)):
        return _unknown_key(name.group(1), cause)
    if isinstance(error, InterpolationKeyError) or isinstance(cause, InterpolationKeyError):
        inner = error if isinstance(error, InterpolationKeyError) else cause
        return f"{getattr(inner, 'full_key', 'a key')} refers to a key that is not there: {one_line(inner or error)}"
    return re.sub(r" (full_key|object_type|reference_type)[:=].*", "", text)


def _unknown_key(key: str, cause: Exception) -> str:
    parent, _, name = key.rpartition(".")
    node = getattr(cause, "parent_node", None)
    siblings = ", ".join(sorted(str(k) for k in node)) if node is not None and hasattr(node, "keys") else ""
    allowed = f"{parent or 'the configuration'} has: {siblings}; " if siblings else ""
    return f"no key '{name}' in {parent or 'the configuration'}; {allowed}to add a new one write +{key}=..."


def _instantiation(error: InstantiationException) -> str:
    text = one_line(error)
    where = key.group(1) if (key := re.search(r"full_key: (\S+)", text)) else ""
    target = name.group(1) if (name := re.search(r"target '([^']+)'", text)) else "an object"
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason = re.sub(r" ?(set env var HYDRA_FULL_ERROR=1.*|full_key:.*)", "", one_line(root), flags=re.I)
    if isinstance(root, ModuleNotFoundError) and root.name and root.name.split(".")[0] in ("wandb", "mlflow"):
        return f"{target} needs the package {root.name}; install it with: pip install -e '.[loggers]'"
    return f"cannot make {target}{f' for {where}' if where else ''}: {reason}"
