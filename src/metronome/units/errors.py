"""What a user is told, in one line, when something cannot be done or cannot go on."""

from typing import TypeGuard


class InputError(ValueError):
    """A user's mistake, in one line: what was given, what is allowed, what to type instead."""


class RunFailed(RuntimeError):
    """A run that cannot go on though nobody mistyped, in one line: what happened, what stands, what to do."""


def check_number(name: str, value: object, of: str, least: int = 1) -> TypeGuard[int]:
    """True for a whole number, `least` or more. Raises InputError for anything else, naming the option."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}={value!r} is not a number of {of} from {least} up")
    return True
