"""The batch size of each epoch: constant, or b_t = b_0 * g^t."""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from metronome.units.duration import Duration
from metronome.units.errors import InputError

_GROWTH = ("factor", "every", "max", "accumulate")
_NONE = {"factor": None, "every": "1 epoch", "max": None, "accumulate": True}  # as the configuration says no growth
_LEAST_GROWTH = Fraction(1, 10**9)  # of the batch, a time; with less, floats leave too much to exact integers


@dataclass(frozen=True)
class BatchSchedule:
    """`batch_size` samples in the first epoch, times `factor` after `every` epochs, never above `maximum`.

    With `accumulate` the accumulation grows along, so that no micro-batch is larger than in the first epoch and memory
    stays flat; without, the micro-batches grow, for speed.

    >>> [BatchSchedule(8, factor=2, maximum=157).at(epoch) for epoch in range(6)]
    [8, 16, 32, 64, 128, 157]
    """

    batch_size: int
    factor: Fraction | int = 1
    every: int = 1
    maximum: int | None = None
    accumulate: bool = True

    def __post_init__(self) -> None:
        assert min(self.batch_size, self.every) >= 1, self
        assert self.factor > 0, self
        assert self.maximum is None or self.maximum >= 1, self

    @classmethod
    def of(cls, batch_size: int | str, num_samples: int, growth: Mapping[str, Any] | None = None) -> "BatchSchedule":
        """From `data.batch_size` (a number of samples, or `full`) and `data.batch_growth`.

        `growth` has the keys `factor` (None: the batch stays), and, if wanted, `every` (epochs), `max` (samples) and
        `accumulate` (whether accumulation grows along).
        Raises InputError for a batch that is empty or larger than the data set, or a growth it cannot read.
        """
        if num_samples < 1:
            raise InputError("the training data set is empty; a batch needs at least 1 sample")
        if growth is not None and not grows(growth):
            growth = None
        text = batch_size.strip().lower() if isinstance(batch_size, str) else batch_size
        if text == "full":
            if growth is not None:
                raise InputError(
                    "data.batch_growth cannot grow data.batch_size=full; give a number, or no batch_growth"
                )
            return cls(num_samples, maximum=num_samples)
        size = _whole(text)
        if size is None:
            raise InputError(
                f"data.batch_size={batch_size!r} is not a number of samples;"
                f" use a whole number from 1 to {num_samples:,}, or data.batch_size=full"
            )
        if size > num_samples:
            raise InputError(
                f"data.batch_size={size} is larger than the {num_samples:,} training samples; use data.batch_size=full"
            )
        if growth is None:
            return cls(size, maximum=num_samples)
        if unknown := [str(key) for key in growth if key not in _GROWTH]:
            raise InputError(f"data.batch_growth does not know {', '.join(unknown)!r}; it has {', '.join(_GROWTH)}")
        accumulate = growth.get("accumulate", True)
        if not isinstance(accumulate, bool):
            raise InputError(f"data.batch_growth.accumulate={accumulate!r} is neither true nor false")
        given = growth.get("max")
        maximum = num_samples if given is None else _whole(given)
        if maximum is None or maximum < size:
            raise InputError(f"data.batch_growth.max={given!r} must be a whole number, at least data.batch_size={size}")
        factor, every = _factor(growth.get("factor")), _every(growth.get("every"))
        return cls(size, factor, every, min(maximum, num_samples), accumulate)

    def at(self, epoch: int) -> int:
        """Samples in a batch of this epoch (the first is 0): b_0 * g^(epoch // every), halves rounded up."""
        if self.factor == 1:  # asked for in every step
            return self.batch_size if self.maximum is None else min(self.batch_size, self.maximum)
        power, factor = epoch // self.every, Fraction(self.factor)
        # Floats settle all but an exact half and the astronomically large; those take exact integers.
        exponent = min(power * self._rate, 600.0)
        near = self.batch_size * math.exp(exponent)
        slack = near * (1 + abs(exponent)) * 2**-44  # some hundred roundings; about three occur
        if self.maximum is not None and near - slack > self.maximum:
            return self.maximum
        size, other = math.floor(near - slack + 0.5), math.floor(near + slack + 0.5)
        if size != other:
            above, below = self.batch_size * factor.numerator**power, factor.denominator**power
            size = (2 * above + below) // (2 * below)
        return min(max(size, 1), self.maximum or max(size, 1))

    def next_change(self, epoch: int) -> int | None:
        """The first epoch after `epoch` with another batch size; None if there is none."""
        size = self.at(epoch)
        if self.factor == 1 or size == (self.maximum if self.factor > 1 else 1):
            return None
        stage, ahead = epoch // self.every, 1
        while self.at((stage + ahead) * self.every) == size:
            ahead *= 2
        stages = range(stage, stage + ahead + 1)
        return self.every * stages[bisect_left(stages, True, key=lambda s: self.at(s * self.every) != size)]

    @cached_property
    def _rate(self) -> float:
        """log(factor), to a relative 1e-14."""
        factor = Fraction(self.factor)
        if Fraction(1, 2) < factor < 2:
            return math.log1p(float(factor - 1))
        return math.log(factor.numerator) - math.log(factor.denominator)

    @property
    def is_constant(self) -> bool:
        """Whether every epoch has the first one's batch size."""
        return self.next_change(0) is None


def grows(growth: Mapping[str, Any]) -> bool:
    """Whether a `data.batch_growth` says that the batch grows: not where `factor` is null. Raises InputError where it
    is, and something else is said of a growth."""
    if growth.get("factor", 0) is not None:
        return True
    for key, value in growth.items():
        if value not in (_NONE.get(key), None):
            raise InputError(
                f"data.batch_growth.{key}={value}, and nothing says how much the batch grows; add e.g. "
                "data.batch_growth.factor=2"
            )
    return False


def _whole(value: object) -> int | None:
    """A whole number above 0, given as such or as digits (not thousands: Python refuses to read those)."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,100}", value.strip(), re.ASCII):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _factor(given: object) -> Fraction:
    factor = Fraction(0)
    with suppress(InputError):
        # By way of text, so that 1.1 is 11/10 and not the binary number next to it; and as a number of epochs
        # is read, so that `1e999999999` is a message and not gigabytes of zeros.
        factor = Fraction(Duration.parse(f"{given} epochs").value)
    if factor <= 0:
        raise InputError(f"data.batch_growth.factor={given!r} must be a number above 0, e.g. 2")
    if 0 < abs(factor - 1) < _LEAST_GROWTH:
        raise InputError(f"data.batch_growth.factor={given!r} is too close to 1 to count with; use e.g. 1.01, or 1")
    return factor


def _every(given: object) -> int:
    if given is None:
        return 1
    if (epochs := _whole(given)) is not None:
        return epochs
    if isinstance(given, str | Duration):
        with suppress(InputError):
            duration = Duration.parse(given)
            if duration.unit == "epochs" and duration.value >= 1 and duration.value.denominator == 1:
                return int(duration.value)
    raise InputError(f"data.batch_growth.every={str(given)!r} must be whole epochs, e.g. '2 epochs'")
