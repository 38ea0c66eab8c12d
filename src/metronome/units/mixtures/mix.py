"""A mixture of data sets: which set each sample of a training comes from, and how often a set is gone through.

The whole training is one line of samples, numbered from 0. It is made of blocks, all alike: with weights 3 and 1 a
block is 4 samples, 3 of the first set and 1 of the second, evenly spread. So which set a place belongs to, and
how many of that set came before it, are known from the place alone: nothing is kept, and nothing is drawn.

In a block the k-th sample of a set with w of P places stands between the places floor((k-1) P/w) and ceil(k P/w): of
those that may stand somewhere the one that must be there first is taken, which always works out. So among the first n
samples of a training each set has n w/P, less than one sample more or less, and after each whole block exactly.

Source: S. Baruah, N. Cohen, C. Plaxton, D. Varvel (1996), "Proportionate Progress: A Notion of Fairness in Resource
Allocation".
"""

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from heapq import heappop, heappush
from math import ceil, gcd, isfinite, lcm
from typing import Any

from metronome.units.duration import Duration
from metronome.units.errors import InputError

LARGEST_BLOCK = 2**16  # samples; weights that need more are rounded to parts of it


@dataclass(frozen=True)
class Mix:
    """Data sets by name, their samples, and how they are mixed.

    Attributes:
        sizes: samples in each set.
        parts: samples of each set in a block.
        samples_per_epoch: what an epoch of the mixture is.
        is_rounded: whether weights that were given are only nearly these.

    >>> mix = Mix.of({"a": 3, "b": 8}, weights={"a": 3, "b": 1})
    >>> [mix.names[i] for i in mix.pattern], mix.samples_per_epoch
    (['a', 'a', 'a', 'b'], 32)
    >>> mix.counts(5)
    (4, 1)
    """

    sizes: Mapping[str, int]
    parts: tuple[int, ...]
    samples_per_epoch: int
    is_rounded: bool = False

    @classmethod
    def of(
        cls,
        sizes: Mapping[str, int],
        weights: Mapping[str, Any] | None = None,
        alpha: float | None = None,
        epoch: str | int | None = None,
    ) -> "Mix":
        """From how many samples each set has, and what a user wants of them.

        Args:
            sizes: by name; at least one.
            weights: a number above 0 for each set; only how they compare counts.
            alpha: instead of them: as the sets' sizes to this power (1: in proportion, 0: all alike); without either 1.
            epoch: the samples of an epoch, or the set that is gone through once in it; None: so many that every sample
                of every set is in it at least once.

        Raises:
            InputError: for weights that are none, or not one for each set; for an epoch that is none.
        """
        if not sizes:
            raise InputError("a mixture needs at least one data set")
        if weights is not None and alpha is not None:
            raise InputError(f"a mixture has weights or alpha={alpha}, not both; leave one of them out")
        wanted = _given(sizes, weights) if weights is not None else _by_size(sizes, 1 if alpha is None else alpha)
        parts = _whole_parts(wanted)
        total = sum(wanted)
        is_rounded = weights is not None and any(
            Fraction(p, sum(parts)) != w / total for p, w in zip(parts, wanted, strict=True)
        )
        return cls(dict(sizes), parts, _epoch(sizes, parts, epoch), is_rounded)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    @property
    def block(self) -> int:
        """Samples in a block."""
        return sum(self.parts)

    @cached_property
    def pattern(self) -> array:
        """The set at each place of a block, by its number."""
        return _spread(self.parts)

    @cached_property
    def _places(self) -> list[list[int]]:
        """The places of each set in a block."""
        places: list[list[int]] = [[] for _ in self.parts]
        for place, number in enumerate(self.pattern):
            places[number].append(place)
        return places

    def counts(self, samples: int) -> tuple[int, ...]:
        """Of each set, how many are among the first so many samples of a training."""
        blocks, rest = divmod(samples, self.block)
        return tuple(
            blocks * part + bisect_left(places, rest) for part, places in zip(self.parts, self._places, strict=True)
        )

    def counts_in_epoch(self, epoch: int, samples: int) -> tuple[int, ...]:
        """Of each set, how many are among the first so many samples of an epoch (the first is 0)."""
        start = epoch * self.samples_per_epoch
        pairs = zip(self.counts(start + samples), self.counts(start), strict=True)
        return tuple(after - before for after, before in pairs)

    def described(self) -> dict[str, list[int]]:
        """What decides on the samples: of each set its samples, and its parts of a block; for a checkpoint."""
        return {name: [size, part] for (name, size), part in zip(self.sizes.items(), self.parts, strict=True)}


def _given(sizes: Mapping[str, int], weights: Mapping[str, Any]) -> list[Fraction]:
    if not isinstance(weights, Mapping) or set(weights) != set(sizes):
        given = ", ".join(map(str, weights)) if isinstance(weights, Mapping) else repr(weights)
        raise InputError(f"a mixture needs a weight for each of its sets ({', '.join(sizes)}), and has: {given}")
    return [_number(f"the weight of {name}", weights[name]) for name in sizes]


def _by_size(sizes: Mapping[str, int], alpha: float) -> list[Fraction]:
    power = _number("alpha", alpha, least_is_allowed=True)
    if power in (0, 1):
        return [Fraction(size if power else 1) for size in sizes.values()]
    largest = max(sizes.values())
    return [Fraction((size / largest) ** float(power)).limit_denominator(10**9) or Fraction(1, 10**9)
            for size in sizes.values()]  # fmt: skip


def _number(what: str, value: Any, least_is_allowed: bool = False) -> Fraction:
    """By way of text, so that 0.1 is a tenth, and not the binary number next to it."""
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not isfinite(value)) or len(str(value)) > 40:
            raise ValueError
        number = Fraction(str(value).replace("_", ""))
    except (ValueError, ZeroDivisionError):
        number = Fraction(-1)
    if number < 0 or (number == 0 and not least_is_allowed):
        allowed = "from 0 up" if least_is_allowed else "above 0; a set that is not wanted is left out"
        raise InputError(f"{what} in a mixture, {value!r}, is not a number {allowed}")
    return number


def _whole_parts(wanted: Sequence[Fraction]) -> tuple[int, ...]:
    """Whole numbers in these proportions; rounded to parts of the largest block where they need a larger one."""
    scale = lcm(*(weight.denominator for weight in wanted))
    parts = [int(weight * scale) for weight in wanted]
    parts = [part // gcd(*parts) for part in parts]
    if sum(parts) <= LARGEST_BLOCK:
        return tuple(parts)
    total = sum(wanted)
    exact = [weight * LARGEST_BLOCK / total for weight in wanted]
    parts = [max(1, int(part)) for part in exact]
    left = LARGEST_BLOCK - sum(parts)
    for i in sorted(range(len(parts)), key=lambda i: (int(exact[i]) - exact[i], i))[: max(left, 0)]:
        parts[i] += 1
    return tuple(part // gcd(*parts) for part in parts)


def _spread(parts: Sequence[int]) -> array:
    """Who stands at each place of a block: of those whose next may stand there, the one that must soonest."""
    block, pattern = sum(parts), array("q")
    # Each set's next sample: in `later` until it may stand somewhere, then in `ready` by when it must.
    later: list[tuple[int, int, int]] = []
    ready: list[tuple[int, int, int]] = []
    for number in range(len(parts)):
        heappush(later, (0, number, 1))
    for place in range(block):
        while later and later[0][0] <= place:
            _, number, k = heappop(later)
            heappush(ready, (-(-k * block // parts[number]), number, k))
        _, number, k = heappop(ready)
        pattern.append(number)
        if k < parts[number]:
            heappush(later, (k * block // parts[number], number, k + 1))
    return pattern


def _epoch(sizes: Mapping[str, int], parts: Sequence[int], asked: str | int | None) -> int:
    """Samples in an epoch. After ceil(N P/w) of them a set of N has been gone through."""
    block = sum(parts)
    once = {name: ceil(Fraction(n * block, part)) for (name, n), part in zip(sizes.items(), parts, strict=True)}
    if asked is None:
        return max(once.values())
    if asked in once:
        return once[str(asked)]
    try:
        length = Duration.parse(f"{asked} samples" if isinstance(asked, int) else asked)
    except InputError:
        length = Duration(0, "samples")
    if isinstance(asked, bool) or length.unit != "samples" or length.value < 1:
        raise InputError(
            f"epoch={asked!r} of a mixture is neither a number of samples, such as '10_000 samples', nor one of its "
            f"sets: {', '.join(sizes)}"
        )
    return int(length.value)
