"""The noise scale of a gradient, from squared sizes of gradients: arithmetic, for numbers and for tensors alike.

With samples drawn at random, the gradient g of n of them has E|g|^2 = |G|^2 + tr(S)/n: G is the gradient over all data,
S the covariance of the gradient of one sample. Two sizes of batch give both unknowns, and B_simple = tr(S)/|G|^2 is the
batch size at which noise and gradient are equally large (McCandlish et al. 2018, arXiv 1812.06162, appendix A).

A batch of N samples in m pieces of n_i, with gradients g_i of their mean losses, is the mean g = sum(a_i g_i) with
a_i = n_i/N. Then, for pieces of any sizes,

    E[sum(a_i |g_i|^2) - |g|^2] = sum(a_i (|G|^2 + tr(S)/n_i)) - (|G|^2 + tr(S)/N) = (m - 1) tr(S)/N.

For equal pieces these are the formulas of the source. Where a loss is a mean over something else than samples (tokens),
a_i is the piece's part of that, and the estimate is right as far as the variance of a piece's gradient goes as 1/a_i.
"""

from collections.abc import Sequence
from typing import Any


def estimates(pieces: Any, whole: Any, samples: int, count: Any) -> tuple[Any, Any]:
    """Unbiased estimates of |G|^2 and tr(S), from one batch.

    Args:
        pieces: sum(a_i |g_i|^2).
        whole: |g|^2 of the whole batch.
        samples: N, in the whole batch.
        count: m, pieces that have samples; 2 or more.
    """
    trace = samples * (pieces - whole) / (count - 1)
    return whole - trace / samples, trace


def averaged(sums: Any, found: Any, keep: float) -> Any:
    """Exponential averages, one estimate later.

    Args:
        sums: of |G|^2, of tr(S) and of the weights; 0, 0, 0 at the beginning.
        found: the new estimates of both, and 1.
        keep: the weight of what was, from 0 to 1.
    """
    return keep * sums + (1 - keep) * found


def noise(sums: Sequence[float]) -> dict[str, float]:
    """What is logged of the averages, each divided by its weights. Nothing before the first estimate; no scale where
    the estimate of |G|^2 is not above 0, the gradient being lost in its noise."""
    gradient_squared, trace, weights = sums
    if not weights:
        return {}
    values = {"noise/gradient_squared": gradient_squared / weights, "noise/trace": trace / weights}
    return values | ({"noise/scale": trace / gradient_squared} if gradient_squared > 0 else {})
