"""A length of training with its unit: `20 epochs`, `500 steps`, `1e6 samples`, `10%`, `90 min`."""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, get_args

from metronome.units.errors import InputError

Unit = Literal["epochs", "steps", "samples", "percent", "seconds"]

_SECONDS = {"day": 86400, "h": 3600, "min": 60, "s": 1}
_SPELLINGS: dict[str, tuple[Unit, int]] = {
    "%": ("percent", 1),
    "percent": ("percent", 1),
    **{word: ("epochs", 1) for word in ("epoch", "epochs")},
    **{word: ("steps", 1) for word in ("step", "steps")},
    **{word: ("samples", 1) for word in ("sample", "samples")},
    **{word: ("seconds", _SECONDS["s"]) for word in ("s", "sec", "secs", "second", "seconds")},
    **{word: ("seconds", _SECONDS["min"]) for word in ("min", "mins", "minute", "minutes")},
    **{word: ("seconds", _SECONDS["h"]) for word in ("h", "hr", "hrs", "hour", "hours")},
    **{word: ("seconds", _SECONDS["day"]) for word in ("d", "day", "days")},
}
_ALLOWED = "epochs, steps, samples, %, s, min, h, days"

# Two digits of exponent, so that `1e999999999 steps` is a message and not gigabytes of zeros.
_NUMBER = (
    r"[+-]?(?:\d+/0*[1-9]\d*|\d{1,3}(?:,\d{3})+(?:\.\d+)?"
    r"|(?:\d+(?:_\d+)*(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,2}(?!\d))?)"
)
_MAX_LENGTH = 200  # Python refuses to read and to print numbers of thousands of digits
_WORD = r"(?:%|[a-z]+)"
_ONE = re.compile(rf"({_NUMBER})\s*({_WORD})?", re.ASCII)
_TWO = re.compile(rf"{_NUMBER}\s*{_WORD}(?:[\s,;+&]+|\s+and\s+){_NUMBER}\s*{_WORD}.*", re.ASCII)


@dataclass(frozen=True)
class Duration:
    """A number of `epochs`, `steps`, `samples`, `percent` (of a whole training) or `seconds`, exact.

    >>> Duration.parse("1.5 h")
    Duration(value=Fraction(5400, 1), unit='seconds')
    >>> str(Duration.parse("1.5 h"))
    '90 min'

    Raises InputError for a negative number, a part of a step or of a sample, more than 100 percent.
    """

    value: Fraction | int
    unit: Unit

    def __post_init__(self) -> None:
        assert self.unit in get_args(Unit), self.unit
        object.__setattr__(self, "value", Fraction(self.value))
        if self.value < 0:
            raise InputError(f"`{self}` is negative; a duration is zero or more, e.g. `20 epochs`")
        if self.unit == "percent" and self.value > 100:
            raise InputError(f"`{self}` is more than the whole; use at most `100%`")
        if self.unit in ("steps", "samples") and self.value.denominator != 1:
            whole = Duration(-(-self.value // 1), self.unit)
            raise InputError(f"`{self}` cuts a {self.unit[:-1]}; use a whole number, e.g. `{whole}`")

    @classmethod
    def parse(cls, text: "str | int | float | Duration") -> "Duration":
        """Read a number and a unit; a Duration passes through. Raises InputError for anything else."""
        if isinstance(text, Duration):
            return text
        given = " ".join(str(text).split())
        match = _ONE.fullmatch(given.lower())
        if match is None and _TWO.fullmatch(given.lower()):
            raise InputError(f"`{given}` is two durations; give one, e.g. `20 epochs` or `90 min`")
        if match is None or len(match[1]) > _MAX_LENGTH:
            raise InputError(f"`{given}` is not a duration; write a number and a unit ({_ALLOWED}), e.g. `20 epochs`")
        number, word = match.groups()
        if word is None:
            raise InputError(f"`{given}` has no unit; add one, e.g. `{given} steps` or `{given} epochs`")
        if word in ("batch", "batches"):
            raise InputError(f"`{given}`: a batch is one step; write `{number} steps`")
        if word in ("it", "its", "iter", "iters", "iteration", "iterations"):
            raise InputError(f"`{given}`: iterations depend on the hardware; write steps, e.g. `500 steps`")
        if word not in _SPELLINGS:
            raise InputError(f"`{given}`: no unit `{word}`; use one of {_ALLOWED}, e.g. `500 steps`")
        unit, size = _SPELLINGS[word]
        return cls(Fraction(number.replace(",", "")) * size, unit)

    def __str__(self) -> str:
        if self.unit == "percent":
            return f"{_digits(self.value)}%"
        if self.unit != "seconds":
            return f"{_digits(self.value)} {self.unit[:-1] if self.value == 1 else self.unit}"
        name = next((n for n, size in _SECONDS.items() if self.value and self.value % size == 0), "s")
        count = Fraction(self.value) / _SECONDS[name]
        return f"{_digits(count)} {'days' if name == 'day' and count != 1 else name}"


def _digits(value: Fraction | int) -> str:
    """As a decimal where that is exact, else as `1/3`."""
    if value.denominator == 1:
        return f"{int(value):,}"
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return f"{decimal:,f}" if Fraction(decimal) == value else f"{value.numerator}/{value.denominator}"
