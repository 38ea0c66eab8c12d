"""The losses of a learning-rate range test, and the rate that they speak for: arithmetic alone."""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Curve:
    """What a range test has seen: at each step a rate a little larger than before, and the loss before its update.

    Attributes:
        rates: ascending, each the one before it times the same factor.
        losses: of the batches, as they came, one for each rate; finite.
        diverged: whether the test ended because the loss had grown too large, or was no number.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    diverged: bool = False

    def smoothed(self, steps: float = 3.0) -> np.ndarray:
        """The losses with the noise of single batches taken out: a mean over neighbours, which are weighed by a bell
        of this width (in steps; one standard deviation). It looks both ways, and so does not lag behind."""
        losses, at = np.asarray(self.losses), np.arange(len(self.losses))
        weights = np.exp(-0.5 * ((at[:, None] - at) / steps) ** 2)
        return weights @ losses / weights.sum(axis=1)


# A rate that is right for long stays below the one at which the loss of a range test is lowest: there it has begun to
# rise. The lowest point is found surely in noise, where the steepest one, another usual choice, is not.
_BELOW_LOWEST = 4.0
# By so many standard errors the loss must have come down.
_SURELY = 4.0


def lowest(curve: Curve) -> float | None:
    """The rate at which the smoothed loss is lowest; None if it has not surely come down at any rate."""
    if len(curve.rates) < 10:
        return None
    smooth = curve.smoothed()
    at = int(smooth.argmin())
    # A bell of width 3 weighs some 10 batches, whose noise is what is left without the smooth curve.
    left = (np.asarray(curve.losses) - smooth)[: at + 1]
    error = float(np.std(left)) / math.sqrt(10) if len(left) > 1 else 0.0
    begin = float(np.mean(smooth[: max(1, len(smooth) // 10)]))
    return curve.rates[at] if begin - smooth[at] > max(_SURELY * error, 1e-12 * abs(begin)) else None


def suggest(curve: Curve) -> float | None:
    """A rate to train with: a quarter of the one at which the smoothed loss is lowest. None if none lets it fall.

    It is good to a factor of three or so, and for some networks far too small: those whose loss rises for a while at
    rates that are right for long. `trials.py` looks further.
    """
    found = lowest(curve)
    return None if found is None else rounded(found / _BELOW_LOWEST)


def rounded(rate: float) -> float:
    """To two digits: no search knows more."""
    return float(f"{rate:.2g}")
