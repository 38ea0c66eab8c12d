"""What every script shares: a user's mistake is told in one line, with a non-zero exit and no traceback."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from metronome.app.console.arguments import made_ready
from metronome.app.console.resolvers import register_resolvers
from metronome.app.console.wrapped import wrapped
from metronome.app.errors.exits import EXIT_FAILED, EXIT_INPUT, EXIT_SIGINT, JobFailed, Untouched
from metronome.app.errors.messages import cannot_go_on, mistake
from metronome.units import InputError

# What torchrun, SLURM and users set for the processes of a run. Lightning reads some of them when it is imported.
_WHOLE_NUMBERS = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS",
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_RESTART_COUNT", "JSM_NAMESPACE_RANK",
)  # fmt: skip


@contextmanager
def command_line() -> Iterator[None]:
    """Around a script's main: registers the resolvers, puts what was typed in the order and the words that Hydra takes,
    keeps argparse, logging and Hydra from telling errors themselves, and tells them in one line.

    `HYDRA_FULL_ERROR=1` shows the whole traceback instead.
    """
    register_resolvers()
    # Beside other work threads that wait for each other in a loop take the cores from those they wait for: steps of a
    # small network were 66 times as long. Asleep they wait as well. It is read when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Else argparse shows all there is to give, and a log file on a full disk makes a traceback of each line.
    before, argparse.ArgumentParser.error = argparse.ArgumentParser.error, _not_understood
    logging.raiseExceptions = False
    whole_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints errors itself, over many lines
    try:
        try:
            check_environment()
            sys.argv[1:] = made_ready(sys.argv[1:], sys.argv[0])
            yield
        except Untouched as carrier:
            raise carrier.error from carrier.error.__cause__
    except JobFailed:
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_SIGINT)
    except BrokenPipeError:  # the reader of the output has what it wanted: ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        line = mistake(error)
        if line is None or whole_traceback:
            raise
        print(wrapped(f"error: {line}", sys.stderr), file=sys.stderr)
        sys.exit(EXIT_FAILED if cannot_go_on(error) else EXIT_INPUT)
    finally:
        argparse.ArgumentParser.error, logging.raiseExceptions = before, True
        if not whole_traceback:
            del os.environ["HYDRA_FULL_ERROR"]


def check_environment() -> None:
    """Raises InputError for a variable of the environment that is no number and must be one."""
    for name in _WHOLE_NUMBERS:
        if (value := os.environ.get(name)) is not None and not value.isdecimal():
            raise InputError(f"the environment has {name}={value}, which is no whole number; correct it, or unset it")
    if int(os.environ.get("MASTER_PORT", "0")) > 65_535:
        raise InputError(f"the environment has MASTER_PORT={os.environ['MASTER_PORT']}; a port is at most 65535")


def _not_understood(self: argparse.ArgumentParser, message: str) -> NoReturn:
    if len(sys.argv) == 1 and "required" in message:
        # Where words and options may be mixed, argparse asks for one kind after the other.
        missing = [action for action in self._actions if action.required]
        names = [
            action.option_strings[0] if action.option_strings else action.metavar or action.dest for action in missing
        ]
        message = f"the following arguments are required: {', '.join(map(str, names))}"
    raise InputError(f"{message}; --help shows what there is to give")
