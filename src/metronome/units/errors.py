"""What a user is told after a mistake."""

from typing import TypeGuard


class InputError(ValueError):
    """A user's mistake, in one line: what was given, what is allowed, what to type instead."""


def check_number(name: str, value: object, of: str, least: int = 1) -> TypeGuard[int]:
    """True for a whole number, `least` or more. Raises InputError for anything else, naming the option."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}={value!r} is not a number of {of} from {least} up")
    return True
