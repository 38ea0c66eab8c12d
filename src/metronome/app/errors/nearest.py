"""The names that a misspelt one is nearest to. Imports nothing heavy."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str], sign: str = "") -> str:
    """`did you mean adamw or adam`, the nearest first, each after a sign; an empty text where none is near.

    >>> did_you_mean("adamm", ["adam", "adamw", "sgd"])
    'did you mean adam or adamw'
    """
    # Of names that differ in capitals alone the one that is written like this one.
    lowered = {n.lower(): n for n in sorted(names, key=lambda n: n[:1].isupper() == name[:1].isupper())}
    near = get_close_matches(name.lower(), lowered, n=2, cutoff=0.7)
    return f"did you mean {' or '.join(sign + lowered[n] for n in near)}" if near else ""
