"""How often to save, and what failures cost.

Young (1974), Communications of the ACM 17, 530; Daly (2006), Future Generation Computer Systems 22, 303.

Failures come at random, at a constant rate, whatever is being done; each takes everything since the last save that is
whole on the disk. Times are in seconds.
"""

from dataclasses import dataclass
from math import exp, expm1, inf, sqrt


@dataclass(frozen=True)
class Saving:
    """What a save costs, and what a failure does.

    Attributes:
        held: seconds that training stands still for a save.
        written: seconds from then on until the file is whole: 0 where training waits for it.
        restart: seconds from a failure until training goes on from a file.
        between_failures: the mean time between two of them; infinite where there are none.
    """

    held: float
    written: float
    restart: float
    between_failures: float

    def goodput(self, every: float) -> float:
        """The part of the time that goes into training that is kept, with a save after each `every` seconds of it.

        Exact for random failures, which may come while a save or a restart goes on too (Daly's equation 20 turned
        over): z / (M exp((R + w) / M) (exp((z + C) / M) - 1)). A file that is not whole yet when a failure comes is
        lost: that is as if each restart took `written` seconds longer.

        >>> round(Saving(60, 0, 600, 86_400).goodput(3_600), 4)
        0.9563
        """
        mean = self.between_failures
        if mean == inf:
            return every / (every + self.held)
        exponent = (every + self.held) / mean
        if exponent > 500:
            return 0.0
        return every / (mean * exp(min((self.restart + self.written) / mean, 700.0)) * expm1(exponent))

    @property
    def young(self) -> float:
        """The best time between saves, to first order: sqrt(2 C M)."""
        return sqrt(2 * self.held * self.between_failures)

    @property
    def daly(self) -> float:
        """The same to higher order (Daly's equation 37); M where a save takes longer than 2 M.

        >>> saving = Saving(60, 0, 600, 86_400)
        >>> round(saving.young), round(saving.daly)
        (3220, 3180)
        """
        mean, held = self.between_failures, self.held
        if held >= 2 * mean:
            return mean
        part = held / (2 * mean)
        return sqrt(2 * held * mean) * (1 + sqrt(part) / 3 + part / 9) - held

    @property
    def best(self) -> float:
        """Daly's, but no shorter than it takes to write a file: one is written at a time. Infinite without failures."""
        if self.between_failures == inf:
            return inf
        return max(self.daly, self.written - self.held, 1e-9)

    def losses(self, every: float) -> dict[str, float]:
        """Where the rest of the time goes, in parts of the whole: standing still for saves, restarts, and steps that
        are made again."""
        kept = self.goodput(every)
        held = kept * self.held / every
        if self.between_failures == inf:
            return {"saves": held, "restarts": 0.0, "again": 0.0}
        # A failure that comes in a restart begins it anew, so that a part of them is cut short.
        restarts = -expm1(-self.restart / self.between_failures)
        return {"saves": held, "restarts": restarts, "again": max(1 - kept - held - restarts, 0.0)}


def seconds_to_save(count: float, writers: int, of_one: float, of_all: float) -> float:
    """Seconds to write `count` bytes, shared out evenly over hosts that write at the same time.

    Args:
        writers: hosts that write.
        of_one, of_all: bytes a second that one of them writes, and that the storage takes from all together.

    >>> seconds_to_save(1e12, 100, 2e9, 50e9), seconds_to_save(1e12, 1, 2e9, 50e9)
    (20.0, 500.0)
    """
    return count / min(writers * of_one, of_all)
