"""How a command ends: exit codes, and errors that have been dealt with or are to pass Hydra untouched."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FAILED, EXIT_INPUT, EXIT_SIGINT, EXIT_SIGTERM = 1, 2, 130, 143


class JobFailed(Exception):
    """A run ended with an error that has been told already; a sweep goes on with its next job."""

    is_from_before = False  # whether an earlier start of the sweep met it


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


class Untouched(BaseException):
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
        raise Untouched(error) from error


@contextmanager
def codes_of_signals() -> Iterator[None]:
    """Lightning ends a run that is told to stop with code 0 or 1; a shell and a cluster expect these."""
    try:
        yield
    except SystemExit as stop:
        from lightning.pytorch.utilities.exceptions import SIGTERMException  # it is imported by now

        # One that has had its job started again has a code that says so.
        code = stop.code or EXIT_SIGTERM if isinstance(stop, SIGTERMException) else EXIT_SIGINT
        raise SystemExit(code) from stop
