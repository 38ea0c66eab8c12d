"""Amounts with a unit, as they are typed for a plan on paper: `80GB`, `400Gb/s`, `5us`, `400TFLOP/s`."""

import re

from metronome.units.errors import InputError

_PREFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
             "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}  # fmt: skip
_PARTS = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}  # of a second
_SECONDS = {"min": 60, "h": 3_600, "day": 86_400, "days": 86_400}
_EXAMPLES = {
    "bytes": "80GB",
    "bytes/s": "400Gb/s or 50GB/s",
    "seconds": "5us, 0.2s, 10min or 2h",
    "flop/s": "400TFLOP/s",
}
_NUMBER = r"([0-9][0-9_]*(?:\.[0-9]*)?(?:e[+-]?[0-9]{1,2})?)"
_SIZE = re.compile(_NUMBER + r"\s*([kKMGTPE]i?|)(b|B)(/s)?")
_FLOPS = re.compile(_NUMBER + r"\s*([kKMGTPE]|)(?:FLOPS|FLOP/s|flops|flop/s)")
_TIME = re.compile(_NUMBER + r"\s*([a-z]+)")
_COUNT = re.compile(_NUMBER)


def amount(key: str, given: object, unit: str) -> float:
    """A number of `unit`: bytes, bytes/s, seconds or flop/s. A small b is a bit, a large B a byte of eight.

    >>> amount("paper.bandwidth", "400Gb/s", "bytes/s"), amount("paper.memory", "80GB", "bytes")
    (50000000000.0, 80000000000.0)
    >>> amount("paper.latency", "5us", "seconds"), amount("paper.flops", "400 TFLOP/s", "flop/s")
    (5e-06, 400000000000000.0)

    Raises:
        InputError: for what is no number with such a unit, or is below 0.
    """
    text = str(given).strip()
    found: float | None = None
    if unit in ("bytes", "bytes/s") and (size := _SIZE.fullmatch(text)) is not None:
        number, prefix, letter, a_second = size.groups()
        if (a_second is not None) == (unit == "bytes/s"):
            found = float(number) * _PREFIXES[prefix] / (8 if letter == "b" else 1)
    elif unit == "flop/s" and (flops := _FLOPS.fullmatch(text)) is not None:
        found = float(flops[1]) * _PREFIXES[flops[2]]
    elif unit == "seconds" and (time := _TIME.fullmatch(text)) is not None and time[2] in _PARTS | _SECONDS:
        found = float(time[1]) * _SECONDS.get(time[2], 1) / _PARTS.get(time[2], 1)
    if found is None:
        raise InputError(f"{key}={given} is no number of {unit} with its unit; write e.g. {_EXAMPLES[unit]}")
    return found


def above_zero(key: str, given: object, unit: str) -> float:
    """The same, and not 0."""
    found = amount(key, given, unit)
    if found == 0:
        raise InputError(f"{key}={given} must be more than 0; write e.g. {_EXAMPLES[unit]}")
    return found


def number(key: str, given: object, what: str, example: str, above: float | None = None) -> float:
    """A plain number from 0 up. Raises InputError for anything else, or for one that is not `above`."""
    text = str(given).strip()
    if isinstance(given, bool) or _COUNT.fullmatch(text) is None or (above is not None and float(text) <= above):
        raise InputError(f"{key}={given} is no {what}; write e.g. {key}={example}")
    return float(text)


def whole(key: str, given: object, what: str, example: str) -> int:
    """A whole number from 1 up, which may be written with a power of ten: `1e12`.

    >>> whole("paper.num_samples", "1e12", "samples", "1e12")
    1000000000000
    """
    found = number(key, given, f"number of {what} from 1 up", example, above=0)
    if found != int(found):
        raise InputError(f"{key}={given} is no whole number of {what}; write e.g. {key}={example}")
    return int(str(given).replace("_", "")) if str(given).replace("_", "").isdecimal() else int(found)
