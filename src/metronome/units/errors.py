"""What a user is told after a mistake."""


class InputError(ValueError):
    """A user's mistake, in one line: what was given, what is allowed, what to type instead."""
