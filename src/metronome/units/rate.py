"""How the learning rate follows the batch size."""

from collections.abc import Callable
from math import isfinite, sqrt

from metronome.units.errors import InputError, check_number

# From the batch size, that for which the rate is right, and the noise scale: what the rate is multiplied by.
RULES: dict[str, Callable[[float, float, float], float]] = {
    "none": lambda size, base, noise: 1.0,
    "linear": lambda size, base, noise: size / base,
    "sqrt": lambda size, base, noise: sqrt(size / base),
    "noise": lambda size, base, noise: (1 + noise / base) / (1 + noise / size),
}


def scaled_rate(
    lr: float, rule: str | None, batch_size: int, base_batch_size: int | None, noise_scale: float | None = None
) -> float:
    """The rate for batches of `batch_size` samples, where `lr` is right for `base_batch_size`.

    `linear`: lr * batch_size / base_batch_size (Goyal et al. 2017, arXiv 1706.02677), for SGD with and without
    momentum; `sqrt`: the square root of that ratio (Malladi et al. 2022, arXiv 2205.10287), for Adam and its kin;
    `noise`: lr * (1 + noise_scale / base_batch_size) / (1 + noise_scale / batch_size), linear for batches far below
    the noise scale (in samples), constant far above it (McCandlish et al. 2018, arXiv 1812.06162, equation 2.6), for
    SGD; `none` (or None): lr.

    >>> scaled_rate(0.1, "linear", 256, 64), scaled_rate(0.1, "sqrt", 256, 64), scaled_rate(0.1, "none", 256, None)
    (0.4, 0.2, 0.1)
    >>> scaled_rate(0.1, "noise", 256, 64, noise_scale=256)  # 0.1 * 5 / 2
    0.25

    Raises:
        InputError: for a rule that is not known, one without its base or its noise scale, or a rate that is no number.
    """
    rule = "none" if rule is None else rule
    if rule not in RULES:
        raise InputError(f"optimizer.scale_lr={rule} is not known; use one of {', '.join(RULES)}")
    if base_batch_size is not None:
        check_number("optimizer.base_batch_size", base_batch_size, "samples")
    if noise_scale is not None and not (_is_number(noise_scale) and noise_scale > 0):
        raise InputError(f"optimizer.noise_scale={noise_scale!r} is not a number of samples above 0")
    if rule == "none":
        return lr
    if base_batch_size is None:
        raise InputError(
            f"optimizer.scale_lr={rule} scales from a batch size for which optimizer.lr is right; give it, "
            "e.g. optimizer.base_batch_size=64"
        )
    if rule == "noise" and noise_scale is None:
        raise InputError(
            "optimizer.scale_lr=noise goes by the noise scale of the gradient; give it in samples, e.g. "
            "optimizer.noise_scale=17 (callbacks=noise_scale measures it)"
        )
    if not _is_number(lr):
        raise InputError(f"optimizer.lr={lr!r} is no number that could be scaled; give one, e.g. optimizer.lr=0.1")
    return lr * RULES[rule](batch_size, base_batch_size, noise_scale or 0.0)


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and isfinite(value)
