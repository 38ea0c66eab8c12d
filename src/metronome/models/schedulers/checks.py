"""Checks of the options that a schedule is given."""

import math
from typing import TypeGuard

from torch.optim import Optimizer

from metronome.units import InputError


def check_part(name: str, value: object) -> None:
    """Raises InputError for what is no number from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InputError(f"scheduler.{name}={value!r} is not a factor from 0 to 1")


def check_above_zero(name: str, value: object) -> None:
    """Raises InputError for what is no number above 0."""
    if not is_number(value) or value <= 0:
        raise InputError(f"scheduler.{name}={value!r} is not a number above 0")


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_rate(optimizer: Optimizer, factor: float) -> bool:
    """Whether the rates of an optimizer are numbers with a factor too, and not infinite."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return all(math.isfinite(rate * factor) for rate in rates)
