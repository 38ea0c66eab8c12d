"""The memory of one device: what a training keeps there, whole or its share of it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod


@dataclass(frozen=True)
class Kept:
    """A tensor that a training keeps: its shape, and the bytes of a number in it."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.itemsize

    def share(self, parts: int) -> int:
        """Bytes of the largest of so many shares: whole rows, as FSDP2 cuts. A number without rows is not cut.

        >>> Kept((128, 64), 4).share(2), Kept((128, 64), 4).share(1000), Kept((), 4).share(8)
        (16384, 256, 4)
        """
        if not self.shape or parts == 1:
            return self.bytes
        return -(-self.shape[0] // parts) * prod(self.shape[1:]) * self.itemsize


@dataclass(frozen=True)
class Weight:
    """A parameter, and what the optimizer keeps of it.

    Attributes:
        kept: its tensor.
        trained: whether it has a gradient, of the same shape and type.
        state: tensors of the optimizer's.
        unit: the number of the part of the network that is gathered as one; None for what belongs to none.
    """

    kept: Kept
    trained: bool = True
    state: tuple[Kept, ...] = ()
    unit: int | None = None

    def cut(self, parts: int) -> "Weight":
        """One of so many parts of a matrix, as tensor parallel layers keep them; vectors stay whole on each device.

        >>> Weight(Kept((64, 256), 4)).cut(2).kept.bytes, Weight(Kept((64,), 4)).cut(2).kept.bytes
        (32768, 256)
        """
        if parts == 1 or len(self.kept.shape) < 2:
            return self

        def cut(tensor: Kept) -> Kept:
            if len(tensor.shape) < 2:
                return tensor
            return Kept((-(-tensor.shape[0] // parts), *tensor.shape[1:]), tensor.itemsize)

        return Weight(cut(self.kept), self.trained, tuple(cut(tensor) for tensor in self.state), self.unit)


@dataclass(frozen=True)
class Layout:
    """How a training lies on its devices.

    Attributes:
        data_parallel: devices that share a batch out.
        tensor_parallel: devices that share out what each of those would compute.
        sharded: whether weights, gradients and states are shared out over the data-parallel devices too (FSDP2).
        accumulate: micro-batches in a step.
    """

    data_parallel: int
    tensor_parallel: int
    sharded: bool
    accumulate: int

    @property
    def devices(self) -> int:
        return self.data_parallel * self.tensor_parallel


@dataclass(frozen=True)
class Resident:
    """Bytes on one device whatever the micro-batch.

    Attributes:
        weights, gradients, optimizer: its share of them, all of them where nothing is sharded.
        buffers: of the module, whole on each device.
        exchange: what sending gradients takes: DDP's buckets, as large as the gradients; for FSDP2 the parts of the
            network that are gathered at one time, and their gradients.
    """

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    exchange: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


def resident(weights: Sequence[Weight], buffers: int, layout: Layout) -> Resident:
    """What the largest share of a device holds.

    FSDP2 keeps a unit's weights gathered while it computes, and gathers the next one ahead; what belongs to no unit
    stays gathered from the start of a pass to its end. Without a sum of gradients after each micro-batch these are
    added up whole on each device until the last.

    >>> adam = [Weight(Kept((100, 100), 4), True, (Kept((), 4), Kept((100, 100), 4), Kept((100, 100), 4)))]
    >>> resident(adam, 0, Layout(1, 1, False, 1))
    Resident(weights=40000, gradients=40000, optimizer=80004, buffers=0, exchange=0)
    >>> resident(adam, 0, Layout(50, 1, True, 1)).optimizer
    1604
    """
    weights = [weight.cut(layout.tensor_parallel) for weight in weights]
    parts = layout.data_parallel if layout.sharded else 1
    trained = [weight for weight in weights if weight.trained]
    whole = sum(weight.kept.bytes for weight in trained)
    gradients, exchange = sum(weight.kept.share(parts) for weight in trained), 0
    if layout.sharded and parts > 1:
        exchange = gathered(weights) + (whole if layout.accumulate > 1 else gathered(trained))
    elif layout.data_parallel > 1:
        exchange = whole
    return Resident(
        weights=sum(weight.kept.share(parts) for weight in weights),
        gradients=gradients,
        optimizer=sum(tensor.share(parts) for weight in weights for tensor in weight.state),
        buffers=buffers,
        exchange=exchange,
    )


def gathered(weights: Sequence[Weight]) -> int:
    """Bytes of the weights that are whole on a device at one time: of no unit, and of the two largest units."""
    units: dict[int, int] = {}
    for weight in weights:
        if weight.unit is not None:
            units[weight.unit] = units.get(weight.unit, 0) + weight.kept.bytes
    loose = sum(weight.kept.bytes for weight in weights if weight.unit is None)
    return loose + sum(sorted(units.values())[-2:])


def largest_that_fits(room: float, needed: Callable[[int], float], most: int, start: int = 2) -> int:
    """The most samples, up to `most`, of which no more than `room` bytes are needed; 0 where one is too many.

    Args:
        needed: bytes for so many samples; grows with them, about evenly. Each call may take seconds, so it is asked a
            few times: of hundreds the answer is right to 1 %, and never too large.
        start: a number to begin with.

    >>> largest_that_fits(600, lambda n: 100 + 7 * n, 500), largest_that_fits(10, lambda n: 100 + 7 * n, 500)
    (71, 0)
    """
    low, high = 0, most + 1
    points: dict[int, float] = {}
    guess, expected = 1, 0.0
    while high - low > max(1, low // 100):
        points[guess] = found = needed(guess)
        low, high = (guess, high) if found <= room else (low, guess)
        if low == guess and abs(found - expected) <= 0.005 * found:
            break  # the line through two others met the room here, and it is a line
        known = sorted(points)[-2:] if high > most else [n for n in (low, high) if n in points]
        guess, expected = (min(start, most) if len(points) == 1 else 2 * low if high > most else (low + high) // 2), 0.0
        if len(known) == 2 and points[known[1]] > points[known[0]]:
            (a, b), (at_a, at_b) = known, (points[known[0]], points[known[1]])
            slope = (at_b - at_a) / (b - a)
            guess = a + int((room - at_a) / slope)
            expected = at_a + slope * (guess - a)
        guess = min(max(guess, low + 1), high - 1)
    return low
