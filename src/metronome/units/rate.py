"""How the learning rate follows the batch size."""

from collections.abc import Callable
from math import isfinite, sqrt

from metronome.units.errors import InputError, check_number

RULES: dict[str, Callable[[float], float]] = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": sqrt}


def scaled_rate(lr: float, rule: str | None, batch_size: int, base_batch_size: int | None) -> float:
    """The rate for batches of `batch_size` samples, where `lr` is right for `base_batch_size`.

    `linear`: lr * batch_size / base_batch_size (Goyal et al. 2017, arXiv 1706.02677), for SGD with and without
    momentum; `sqrt`: the square root of that ratio (Malladi et al. 2022, arXiv 2205.10287), for Adam and its kin;
    `none` (or None): lr.

    >>> scaled_rate(0.1, "linear", 256, 64), scaled_rate(0.1, "sqrt", 256, 64), scaled_rate(0.1, "none", 256, None)
    (0.4, 0.2, 0.1)

    Raises:
        InputError: for a rule that is not known, one without its base, or a rate that is no number.
    """
    rule = "none" if rule is None else rule
    if rule not in RULES:
        raise InputError(f"optimizer.scale_lr={rule} is not known; use one of {', '.join(RULES)}")
    if base_batch_size is not None:
        check_number("optimizer.base_batch_size", base_batch_size, "samples")
    if rule == "none":
        return lr
    if base_batch_size is None:
        raise InputError(
            f"optimizer.scale_lr={rule} scales from a batch size for which optimizer.lr is right; give it, "
            "e.g. optimizer.base_batch_size=64"
        )
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not isfinite(lr):
        raise InputError(f"optimizer.lr={lr!r} is no number that could be scaled; give one, e.g. optimizer.lr=0.1")
    return lr * RULES[rule](batch_size / base_batch_size)
