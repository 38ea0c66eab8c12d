"""Which layouts of a training are measured beside its own: other accumulations, other devices, larger batches."""

from dataclasses import dataclass

from metronome.units import Plan, share_size

_ACCUMULATIONS, _DEVICES = (1, 2, 4, 8), (1, 2, 8)
_MOST_SIZES = 8  # of a batch that grows


@dataclass(frozen=True)
class Layout:
    """A batch, and how it is cut up."""

    batch_size: int
    devices: int
    accumulate: int

    @property
    def micro_batch(self) -> int:
        """Samples of the largest micro-batch."""
        return -(-share_size(self.batch_size, self.devices, 0) // self.accumulate)


def own_layout(plan: Plan) -> Layout:
    return Layout(plan.batch_size, plan.devices, plan.accumulate_grad_batches)


def layouts_of(plan: Plan, processors: int) -> dict[Layout, bool]:
    """The layouts to measure, each with whether this machine has the devices; the training's own comes first.

    Args:
        plan: of the training.
        processors: GPUs, or CPU cores, that there are.

    >>> from metronome.units import BatchSchedule, Duration
    >>> plan = Plan.make(1257, BatchSchedule(6), budgets=[Duration.parse("1 epoch")])
    >>> [(l.devices, l.accumulate, l.micro_batch, here) for l, here in layouts_of(plan, 2).items()]
    [(1, 1, 6, True), (1, 2, 3, True), (1, 4, 2, True), (2, 1, 3, True)]
    """
    own = own_layout(plan)
    found = {own: True}
    for accumulate in _ACCUMULATIONS:
        if accumulate <= share_size(own.batch_size, own.devices, 0):
            found.setdefault(Layout(own.batch_size, own.devices, accumulate), own.devices <= processors)
    for devices in _DEVICES:
        if own.accumulate <= share_size(own.batch_size, devices, devices - 1):
            found.setdefault(Layout(own.batch_size, devices, own.accumulate), devices <= processors)
    return found


def growing(plan: Plan) -> list[Layout]:
    """The sizes that a growing batch goes through, each cut up as it will be; the smallest is the training's own."""
    sizes = {epoch.batch_size: epoch for epoch in plan.per_epoch}
    return [Layout(size, plan.devices, plan.series.micro_batches(size, size)) for size in list(sizes)[:_MOST_SIZES]]
