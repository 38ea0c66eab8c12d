"""A `_target_` that is not there: what its module has instead."""

import pkgutil
from importlib import import_module
from typing import Any

from metronome.app.errors.nearest import did_you_mean


def not_there(target: str) -> str | None:
    """What is missing of a dotted path, in words; None where no package begins it, or all of it is there.

    >>> not_there("collections.OrderedDit")
    'no OrderedDit in collections; did you mean OrderedDict'
    >>> not_there("nowhere.Thing") is None
    True
    """
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        place = ".".join(parts[:count])
        try:
            found: Any = import_module(place)
        except ModuleNotFoundError:
            continue
        except Exception:
            return None  # it is there, and fails by itself
        if hasattr(found, parts[count]):
            return None
        inside = {module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ()))}
        names = sorted(inside | {name for name in dir(found) if not name.startswith("_")})
        near = did_you_mean(parts[count], names)
        return "; ".join(filter(None, (f"no {parts[count]} in {place}", near)))
    return None
