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


def suggest(curve: Curve) -> float | None:
    raise NotImplementedError
