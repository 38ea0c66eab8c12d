"""How near the gradient of a batch comes to that of all samples: what is measured, and what the noise scale predicts.

The gradient g of B of N samples, drawn without replacement, has the mean G, that of all, and

    E|g - G|^2 = tr(S) (1/B - 1/N) = |G|^2 B_simple (1/B - 1/N).

So its relative error is sqrt(B_simple (1/B - 1/N)), and the cosine of its angle to G about 1/sqrt(1 + the square of
that), as noise in many dimensions is nearly at a right angle to G (McCandlish et al. 2018, arXiv 1812.06162).
"""

from collections.abc import Sequence
from math import fsum, sqrt
from statistics import fmean


def predicted(noise_scale: float, batch_size: int, num_samples: int) -> tuple[float, float]:
    """Cosine and relative error of a batch's gradient.

    >>> cosine, error = predicted(80, 32, 1257)
    >>> round(cosine, 2), round(error, 2)
    (0.54, 1.56)
    """
    squared = max(noise_scale * (1 / batch_size - 1 / num_samples), 0.0)
    return 1 / sqrt(1 + squared), sqrt(squared)


def measured(products: Sequence[float], squares: Sequence[float], full: float) -> tuple[float, float]:
    """The mean cosine, and the root of the mean squared relative error, of some batches' gradients g_i.

    Args:
        products: of each g_i with G.
        squares: |g_i|^2.
        full: |G|^2.
    """
    pairs = list(zip(products, squares, strict=True))
    cosines = [product / sqrt(square * full) if square > 0 else 0.0 for product, square in pairs]
    errors = [square - 2 * product + full for product, square in pairs]
    return fmean(cosines), sqrt(max(fsum(errors) / len(errors), 0.0) / full)


def sizes_up_to(num_samples: int) -> list[int]:
    """Batch sizes from 1 on, each twice the one before, and all samples.

    >>> sizes_up_to(10)
    [1, 2, 4, 8, 10]
    """
    powers = [2**i for i in range(num_samples.bit_length()) if 2**i < num_samples]
    return [*powers, num_samples]
