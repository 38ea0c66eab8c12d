"""What gradients made beside a training say: the noise scale and the best length of a step, each with its bounds.

A point has |G|^2, the squared gradient over all data, and tr(S), the variance of one sample's; the noise scale is
tr(S)/|G|^2 (McCandlish et al. 2018, arXiv 1812.06162). Single estimates of |G|^2 are noisy and often negative. Over a
run the mean of |G|^2/tr(S) is taken, so that no phase counts for its large gradients alone: one over the noise scale,
as a harmonic mean over the run. tr(S) is a mean of five points in it, since the errors of the two at one point are
opposite, and their ratio would be too high on average. The error gives the bounds: the lower one by the spread of the
points; the upper one by what the samples of each would make it where that is less, for the noise scale itself changes.
Beside gradients of all samples at ten points of a run (digits, two networks, 3 seeds each) it came out low, by a factor
of 1.1 to 2.9: a batch is called far from it where it is so by a factor of 4 beyond the bound.

The best length of a step is gain/curvature of a point: so many times as long, it would have lowered the loss most
(equation 2.6 there is the same for SGD).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign, fsum, inf, sqrt
from statistics import fmean, stdev
from typing import Any

FEWEST = 4  # points of which bounds can be told
ERRORS = 1.5  # standard errors to a bound
# That the noise is in, at the least: measured on the digits 4 to 6, in larger networks it is more.
DIRECTIONS = 4
MOST_LENGTH = 1e3
MUCH = 8.0
NEAR = 2  # points before and after one


@dataclass(frozen=True)
class Range:
    """An estimate between two bounds."""

    low: float
    value: float
    high: float

    def __str__(self) -> str:
        """The estimate; where it is not known from above, the lower bound.

        >>> str(Range(72.0, 1_076.2, 2e4)), str(Range(72.0, inf, inf))
        ('1,076', '72 or more')
        """
        return f"{self.value:,.0f}" if self.value < 1e6 else f"{self.low:,.0f} or more"


@dataclass(frozen=True)
class Gradients:
    squared: Sequence[float] = ()
    trace: Sequence[float] = ()
    samples: Sequence[float] = ()
    gain: Sequence[float] = ()
    curvature: Sequence[float] = ()

    @classmethod
    def of(cls, table: dict[str, Any]) -> "Gradients":
        """From the columns in result.json."""

        def rows(*names: str) -> list[list[float]]:
            columns = [table.get(name) if isinstance(table.get(name), list) else [] for name in names]
            whole = [row for row in zip(*columns, strict=False) if all(isinstance(v, int | float) for v in row)]
            return [[row[i] for row in whole] for i in range(len(names))]

        return cls(*rows("squared", "trace", "samples"), *rows("gain", "curvature"))

    @property
    def noise_scale(self) -> Range | None:
        """In samples; None where there are too few points, or no noise in them.

        >>> Gradients([1, 1, 1, 1.2], [80, 80, 80, 80], [1e4] * 4).noise_scale
        Range(low=71.1, value=76.2, high=82.1)
        """
        traces = [fmean(self.trace[max(0, i - NEAR) : i + NEAR + 1]) for i in range(len(self.trace))]
        points = [(s / t, n) for s, t, n in zip(self.squared, traces, self.samples, strict=True) if t > 0]
        if len(points) < FEWEST:
            return None
        parts = [part for part, _ in points]
        mean, spread = fmean(parts), stdev(parts) / sqrt(len(parts))
        measured = min(spread, sqrt(fsum(_variance(*point) for point in points)) / len(parts))
        bounds = mean + ERRORS * spread, mean, mean - ERRORS * measured
        return Range(*(round(1 / x, 1) if x > 0 else inf for x in bounds))

    @property
    def longest_step(self) -> float | None:
        """How many times as long steps of the second half of the training could have been at least, and the loss still
        have fallen more with each part of that length; None where too few are known.

        The largest L of which mean(gain - L * curvature) is above zero by more than its error.
        """
        start = len(self.gain) // 2
        points = list(zip(self.gain[start:], self.curvature[start:], strict=True))
        if len(points) < FEWEST:
            return None

        length = 0.0
        while length < MOST_LENGTH and _errors(points, next_length := max(1.0, length * 1.25)) > ERRORS:
            length = next_length
        return length

    @property
    def longer_would_not_pay(self) -> bool:
        """Whether steps of the second half `MUCH` times as long are seen to have been too long: by a standard error at
        the least. Where noise hides it they are not."""
        start = len(self.gain) // 2
        points = list(zip(self.gain[start:], self.curvature[start:], strict=True))
        return len(points) >= FEWEST and _errors(points, MUCH) < -1


def _errors(points: Sequence[tuple[float, float]], length: float) -> float:
    """How far above zero the mean of gain - length * curvature is, in its standard errors."""
    left = [gain - length * curvature for gain, curvature in points]
    mean, error = fmean(left), stdev(left) / sqrt(len(left))
    return mean / error if error else copysign(inf, mean) if mean else 0.0


def _variance(part: float, samples: float) -> float:
    """Of |G|^2/tr(S) by the gradients of two pieces, a quarter of the samples and the rest, if the noise is in some
    `DIRECTIONS` directions: that of the product of two noises, and that of a noise with the gradient."""
    small, large = samples / 4, 3 * samples / 4
    return (1 / (small * large) + max(part, 0.0) * (1 / small + 1 / large)) / DIRECTIONS
