"""Values of a configuration as text: as one would type them, and for the eye."""

import json
import math
from collections.abc import Iterable
from typing import Any


def text(value: Any) -> str:
    """A value of a configuration as one would type it; equal numbers are equal texts."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return text(float(value)) if is_number(value) else value
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def shown(value: str) -> str:
    """A value for the eye: numbers that a search has chosen with four digits."""
    if len(value) <= 6 or not is_number(value) or float(value).is_integer():
        return value
    return f"{float(value):.4g}"


def is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value)) and "_" not in value
    except ValueError:
        return False


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each key, or as much as tells it from the others."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}
