"""How steps to a target follow the batch size: S = S_min (1 + B_crit / B), fitted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_SIZES = 3  # two would be met exactly
_RANGE = 1e4  # B_crit is looked for so far below the smallest batch, and above the largest


@dataclass(frozen=True)
class Scaling:
    """S = S_min (1 + B_crit / B): far below B_crit twice the batch takes half the steps (perfect scaling, S B is the
    same), far above it takes as many (saturation).

    Attributes:
        s_min: steps that the largest batch would take.
        b_crit: samples in the batch that takes twice as many steps, and so twice the fewest samples.
        misfit: root mean square of ln(measured / fitted), as a part: 0.1 is 10 %.
        most: the largest of them.
        most_at: the batch size where it is.

    Source: S. McCandlish et al. (2018), arXiv 1812.06162, eq. 2.11; C. Shallue et al. (2019), arXiv 1811.03600.
    """

    s_min: float
    b_crit: float
    misfit: float
    most: float
    most_at: float

    def steps(self, batch_size: float) -> float:
        return self.s_min * (1 + self.b_crit / batch_size)

    @property
    def e_min(self) -> float:
        """Samples that the smallest batches would take."""
        return self.s_min * self.b_crit


def fit(batch_sizes: Sequence[float], steps: Sequence[float]) -> Scaling | None:
    """The least sum of squares of ln(measured / fitted), so that a tenth off counts the same at any size.

    Args:
        batch_sizes, steps: positive, one pair a batch size.

    Returns:
        None with fewer than three sizes.

    >>> found = fit([1, 10, 100], [110, 20, 11])
    >>> round(found.s_min, 3), round(found.b_crit, 3), round(found.misfit, 6)
    (10.0, 10.0, 0.0)
    """
    sizes, measured = np.asarray(batch_sizes, float), np.log(np.asarray(steps, float))
    if len(np.unique(sizes)) < _LEAST_SIZES:
        return None

    def rest(log_b: float) -> np.ndarray:
        """What is left of the logarithms at a B_crit with the best S_min for it: of zero mean."""
        shape = measured - np.log1p(np.exp(log_b) / sizes)
        return shape - shape.mean()

    low, high = math.log(sizes.min() / _RANGE), math.log(sizes.max() * _RANGE)
    for _ in range(12):  # a grid around the best point of the one before, a tenth as wide each time
        grid = np.linspace(low, high, 101)
        at = int(np.argmin([float((rest(log_b) ** 2).sum()) for log_b in grid]))
        low, high = grid[max(at - 5, 0)], grid[min(at + 5, 100)]
    log_b = float(grid[at])
    left = rest(log_b)
    s_min = math.exp(float((measured - np.log1p(np.exp(log_b) / sizes)).mean()))
    worst = int(np.argmax(np.abs(left)))
    rms, most = math.sqrt(float((left**2).mean())), float(np.abs(left[worst]))
    return Scaling(s_min, math.exp(log_b), math.expm1(rms), math.expm1(most), float(sizes[worst]))
