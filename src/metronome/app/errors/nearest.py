"""The names that a misspelt one is nearest to. Imports nothing heavy."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str], sign: str = "") -> str:
    """`did you mean adamw or adam`, the nearest first, each after a sign; an empty text where none is near.

    >>> did_you_mean("adamm", ["adam", "adamw", "sgd"])
    'did you mean adam or adamw'
    """
    near = get_close_matches(name.lower(), {n.lower(): n for n in names}, n=2, cutoff=0.7)
    return f"did you mean {' or '.join(sign + n for n in near)}" if near else ""
