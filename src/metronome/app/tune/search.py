"""The search for a batch size and a rate, on a function that trains: nothing here knows how.

Of each batch size the best rate is looked for by doubling and halving, each trial cut off where it has lost. Sizes far
below and far above the noise scale come first; S = S_min (1 + B_crit / B) through what they took predicts all others,
and whichever is predicted to be the fastest is trained next, until the fastest has been trained.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from metronome.report.scaling import Scaling, fit

# (batch size, rate, seed, steps after which it has lost) -> steps to the target; None where it did not come there.
Train = Callable[[int, float, int, float], float | None]

_LOSES = 1.3  # times the best steps so far: seeds differ by less
_BELOW, _ABOVE = 8, 3  # times the noise scale: a larger batch takes more samples to its target
_COARSE = (0, 2, -2, 4, -4, 6, -6, -8, -10, -12)  # powers of two of a first rate, until one comes to the target
_WORTH = 0.9  # a batch half as large is worth a trial while it may take so little of the samples
_CLOSE = 1.25  # times the fewest seconds: what more seeds decide between
_FINALISTS = 4


class OutOfTrials(Exception):
    """As many trainings as were allowed have been made."""


@dataclass
class Tuner:
    """Looks for the rate of each batch size, and for the sizes that are the fastest and the cheapest.

    Args:
        train: a training to the target.
        seconds: a step, by batch size.
        sizes: that may be chosen, rising.
        seeds: the first for the search; all of them for those that are close at its end.
        most: steps that a training may take, by batch size, while none has come to the target.
        trials: trainings, at most.
    """

    train: Train
    seconds: Callable[[int], float]
    sizes: Sequence[int]
    seeds: Sequence[int]
    most: Callable[[int], float]
    trials: int = 60
    steps: dict[tuple[int, float], dict[int, float | None]] = field(default_factory=dict)
    best: dict[int, float] = field(default_factory=dict)  # rate by batch size
    _fits: dict[Any, Scaling | None] = field(default_factory=dict, repr=False)

    # ---- one batch size -------------------------------------------------------------------------------------

    def tune_rate(self, size: int, start: float, coarse: bool = False) -> float | None:
        """The best rate for a batch size, by powers of two from `start`; None where no rate comes to the target.

        Args:
            coarse: whether the start is a guess that may be far off.
        """
        if size in self.best:
            return self.best[size]
        taken: dict[int, float | None] = {}

        def ask(power: int) -> float:
            known = [steps for steps in taken.values() if steps is not None]
            cap = _LOSES * min(known) if known else self.most(size)
            taken[power] = self.ask(size, start * 2.0**power, self.seeds[0], cap)
            steps = taken[power]
            return math.inf if steps is None else steps

        at = None
        for power in _COARSE if coarse else _COARSE[:5]:
            if ask(power) < math.inf:
                at = power
                break
        if at is None:
            return None
        self.best[size] = start * 2.0**at
        for way in (1, -1):
            while at + way not in taken and ask(at + way) < taken[at]:  # pyright: ignore
                at += way
                self.best[size] = start * 2.0**at
        return self.best[size]

    def ask(self, size: int, rate: float, seed: int, cap: float) -> float | None:
        """Steps to the target; trained once. Raises OutOfTrials."""
        known = self.steps.setdefault((size, rate), {})
        if seed not in known:
            if sum(map(len, self.steps.values())) >= self.trials:
                raise OutOfTrials
            known[seed] = self.train(size, rate, seed, cap)
        return known[seed]

    # ---- all of them ----------------------------------------------------------------------------------------

    def tune(self, size: int, rate: float, noise_scale: Callable[[], float | None]) -> None:
        """Everything: from a batch size and a first guess of its rate; the noise scale may be known after it."""
        try:
            if self.tune_rate(size, rate, coarse=True) is None:
                return
            for other in ends(self.sizes, size, noise_scale()):
                self._go_to(other)
            for find in (self._fastest_predicted, self._cheaper):
                while (candidate := find()) is not None:
                    if self._go_to(candidate) is None:
                        break
            self._more_seeds()
        except OutOfTrials:
            return

    def _go_to(self, size: int) -> float | None:
        return self.tune_rate(size, predicted_rate(self.best, size))

    def _fastest_predicted(self) -> int | None:
        """The size that is predicted to take the fewest seconds, unless it has been trained."""
        choice = min(self.sizes, key=lambda size: self.steps_of(size) * self.seconds(size))
        return None if choice in self.best or self._was_tried(choice) else choice

    def _cheaper(self) -> int | None:
        """A smaller size that may take fewer samples, and not many times the seconds of the slowest so far."""
        smallest = min(self.best)
        smaller = [size for size in self.sizes if size < smallest and not self._was_tried(size)]
        if not smaller:
            return None
        size = max((s for s in smaller if s <= smallest / 4), default=max(smaller))
        saves = size * self.steps_of(size) < _WORTH * smallest * self.steps_of(smallest)
        longest = max(self.steps_of(size) * self.seconds(size) for size in self.best)
        is_cheap = self.steps_of(size) * self.seconds(size) < 5 * longest
        return size if saves and is_cheap else None

    def _was_tried(self, size: int) -> bool:
        return any(tried == size for tried, _ in self.steps)

    def _more_seeds(self) -> None:
        """Train those that are close to the fastest with the other seeds, and the cheapest, until it is settled: one
        that does not come to the target with another seed gives its place to the next."""
        for _ in range(_FINALISTS):
            came = [key for key in self.steps if self._came(key)]
            close = sorted((self.mean_steps(*key) * self.seconds(key[0]), key) for key in came)
            finalists = [key for took, key in close[:_FINALISTS] if took <= _CLOSE * close[0][0]]
            cheapest = self.cheapest
            wanted = dict.fromkeys([*finalists, (cheapest, self.best[cheapest])])
            lacking = [key for key in wanted if len(self.steps[key]) < len(self.seeds)]
            if not lacking:
                return
            for size, rate in lacking:
                cap = 1.5 * _LOSES * self.mean_steps(size, rate)
                all(self.ask(size, rate, seed, cap) is not None for seed in self.seeds[1:])  # the first lack ends it
            for size in list(self.best):
                rates = [rate for tried, rate in self.steps if tried == size and self._came((tried, rate))]
                if rates:
                    self.best[size] = min(rates, key=lambda rate: self.mean_steps(size, rate))
                elif len(self.best) > 1:
                    del self.best[size]

    def _came(self, key: tuple[int, float]) -> bool:
        return bool(self.steps[key]) and None not in self.steps[key].values()

    # ---- what it came to ------------------------------------------------------------------------------------

    def mean_steps(self, size: int, rate: float) -> float:
        """Over the seeds that were trained; infinite where one did not come to the target."""
        taken = list(self.steps.get((size, rate), {}).values())
        if not taken or None in taken:
            return math.inf
        return mean(steps for steps in taken if steps is not None)

    @property
    def scaling(self) -> Scaling | None:
        """S = S_min (1 + B_crit / B) through the best of each size; None with fewer than three."""
        known = {size: self.mean_steps(size, rate) for size, rate in self.best.items()}
        known = tuple((size, steps) for size, steps in known.items() if steps < math.inf)
        if known not in self._fits:  # asked for each size in turn
            self._fits = {known: fit([size for size, _ in known], [steps for _, steps in known])}
        return self._fits[known]

    def steps_of(self, size: int) -> float:
        """Measured where it was, else predicted."""
        if size in self.best:
            return self.mean_steps(size, self.best[size])
        scaling = self.scaling
        if scaling is not None:
            return scaling.steps(size)
        return between({size: self.mean_steps(size, rate) for size, rate in self.best.items()}, size)

    @property
    def fastest(self) -> int:
        return min(self.best, key=lambda size: self.steps_of(size) * self.seconds(size))

    @property
    def cheapest(self) -> int:
        return min(self.best, key=lambda size: self.steps_of(size) * size)


def candidates(num_samples: int, own: int, most: int | None = None) -> list[int]:
    """Powers of two, the own size, and the whole training set.

    >>> candidates(1257, 60)
    [1, 2, 4, 8, 16, 32, 60, 64, 128, 256, 512, 1024, 1257]
    """
    most = min(num_samples, most or num_samples)
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {min(own, most), most})


def ends(sizes: Sequence[int], own: int, noise_scale: float | None) -> list[int]:
    """A size far below and one far above the noise scale, beside the own; where that lies far off, one near it.

    >>> sizes = [2**power for power in range(11)]
    >>> ends(sizes, 32, 86), ends(sizes, 512, 40), ends(sizes, 32, None), ends([16, 32, 64], 32, 86)
    ([512, 8], [128, 32, 4], [128, 4], [64, 16])
    """
    middle = own if noise_scale is None else noise_scale
    low = max([size for size in sizes if size <= middle / _BELOW], default=sizes[0])
    high = min([size for size in sizes if size >= middle * _ABOVE], default=sizes[-1])
    found = [high, low]
    if not low * 2 < own < high / 2:
        found.insert(1, min(sizes, key=lambda size: abs(math.log(size / middle))))
    return [size for size in dict.fromkeys(found) if size != own]


def predicted_rate(best: Mapping[int, float], size: int) -> float:
    """The rate for a batch size: between the two beside it, on a log scale; below all of them in proportion to the size
    (so small a batch is all noise), above all of them the same.

    >>> predicted_rate({8: 0.4, 32: 0.8}, 16), predicted_rate({8: 0.4, 32: 0.8}, 2), predicted_rate({8: 0.4}, 64)
    (0.57, 0.1, 0.4)
    """
    rate = best[min(best)] * size / min(best) if size < min(best) else between(best, size)
    return float(f"{rate:.2g}")  # as it is to be typed


def between(known: Mapping[int, float], size: int) -> float:
    """Interpolated on scales of logarithms; beyond the ends as it is there."""
    sizes = sorted(known)
    if size <= sizes[0] or size >= sizes[-1]:
        return known[sizes[0] if size <= sizes[0] else sizes[-1]]
    above = next(i for i, s in enumerate(sizes) if s >= size)
    a, b = sizes[above - 1], sizes[above]
    part = math.log(size / a) / math.log(b / a)
    return math.exp((1 - part) * math.log(known[a]) + part * math.log(known[b]))


def seconds_between(measured: Mapping[int, float]) -> Callable[[int], float]:
    """Seconds a step by batch size, from those measured: a line between neighbours, and on from the last two.

    >>> of = seconds_between({1: 1.0, 4: 1.0, 16: 2.2})
    >>> of(2), round(of(10), 3), round(of(28), 3)
    (1.0, 1.6, 3.4)
    """
    sizes = sorted(measured)

    def of(size: int) -> float:
        if len(sizes) == 1:
            return measured[sizes[0]]
        above = next((i for i, s in enumerate(sizes) if s >= size), len(sizes) - 1)
        a, b = sizes[max(above - 1, 0)], sizes[max(above, 1)]
        slope = (measured[b] - measured[a]) / (b - a)
        return max(measured[a] + slope * (size - a), min(measured.values()))

    return of


def crossing(curve: Iterable[tuple[int, float]], target: float, sign: int, confirm: int) -> float | None:
    """Steps to a target: where the line to the first of so many values in a row that have it crosses it.

    Args:
        curve: (step, value), rising steps.
        sign: 1 where low values are good, or -1.

    >>> crossing([(10, 2.0), (20, 1.0), (30, 1.5), (40, 0.9), (50, 0.8)], 1.2, 1, confirm=2)
    35.0
    >>> crossing([(10, 2.0), (20, 1.0)], 1.2, 1, confirm=2) is None
    True
    """
    points = list(curve)
    has_it = [sign * value <= sign * target for _, value in points]
    for i in range(len(points) - confirm + 1):
        if all(has_it[i : i + confirm]):
            step, value = points[i]
            if i == 0:
                return float(step)
            before, was = points[i - 1]
            return before + (step - before) * (was - target) / (was - value)
    return None
