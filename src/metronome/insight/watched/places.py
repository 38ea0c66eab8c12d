"""At which steps of a training gradients are made beside it, and of how many samples: what that costs is bounded."""

from dataclasses import dataclass
from math import ceil

COST = 0.03  # of the samples that go through the network
POINTS = 10  # of a run, if they can be had for this
MOST_POINTS = 50
LEAST, MOST = 32, 512  # samples of a point
OVERHEAD = 16  # a pass costs what this many samples do, beside its own


@dataclass(frozen=True)
class Places:
    """Every so many steps, each time of so many samples.

    >>> Places.of(300, 64, 64)
    Places(every=40, samples=32)
    >>> Places.of(100_000, 64, 64)
    Places(every=2000, samples=64)
    """

    every: int
    samples: int

    @classmethod
    def of(cls, steps: int | None, batch_size: int, micro_batch_size: int) -> "Places":
        """Of a training of so many steps. A point goes through the network twice: before a step and after it."""
        share = COST * (steps or 10_000) / POINTS  # of a point, in steps
        samples = round(share * (batch_size + OVERHEAD) / 2 - OVERHEAD)
        samples = max(LEAST, min(samples, MOST, 2 * micro_batch_size, max(batch_size, LEAST)))
        if batch_size >= OVERHEAD:
            samples = min(samples, batch_size, 2 * micro_batch_size)
        cost = 2 * (samples + OVERHEAD) / (batch_size + OVERHEAD)
        every = max(ceil(cost / COST), 2, ceil(steps / MOST_POINTS) if steps else 200)
        return cls(every, samples)

    def is_before(self, step: int) -> bool:
        """Whether gradients are made right after this step, counted from 0."""
        return step % self.every == self.every // 2
