"""The epochs of a training, one after another, before a budget ends it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from metronome.units.duration import Duration
from metronome.units.errors import InputError
from metronome.units.micro_batches import micro_batch_size, micro_batches_of
from metronome.units.schedule import BatchSchedule
from metronome.units.split import share_size

MAX_EPOCHS_LISTED = 10_000


@dataclass(frozen=True)
class EpochPlan:
    """One epoch: its number (the first is 0), samples in a batch, and what it takes in all."""

    epoch: int
    batch_size: int
    steps: int
    iterations: int
    samples: int


def epochs_in_rows(epochs: Sequence[EpochPlan]) -> list[dict[str, Any]]:
    """Epochs one after another as JSON holds them: a row for each run of equal ones, with its first and its last.

    >>> epochs_in_rows([EpochPlan(0, 8, 2, 2, 16), EpochPlan(1, 8, 2, 2, 16), EpochPlan(2, 16, 1, 1, 16)])[0]
    {'epochs': [0, 1], 'batch_size': 8, 'steps': 2, 'iterations': 2, 'samples': 16}
    """
    rows: list[dict[str, Any]] = []
    for epoch in epochs:
        row = asdict(epoch)
        number = row.pop("epoch")
        if rows and {**rows[-1], **row} == rows[-1] and number == rows[-1]["epochs"][1] + 1:
            rows[-1]["epochs"][1] = number
        else:
            rows.append({"epochs": [number, number], **row})
    return rows


def epochs_of_rows(rows: Iterable[Mapping[str, Any]]) -> list[EpochPlan]:
    """Back from `epochs_in_rows`; rows of one `epoch` each, as plans once had them, will do too.

    Raises ValueError, TypeError or KeyError for rows that are none.
    """
    found: list[EpochPlan] = []
    for row in rows:
        numbers = {key: value for key, value in row.items() if key not in ("epoch", "epochs")}
        first, last = row["epochs"] if "epochs" in row else (row["epoch"], row["epoch"])
        if last - first >= MAX_EPOCHS_LISTED:
            raise ValueError(f"a row of more than {MAX_EPOCHS_LISTED:,} epochs")
        found += [EpochPlan(epoch, **numbers) for epoch in range(first, last + 1)]
    return found


def accumulation_at(accumulate_grad_batches: int, schedule: BatchSchedule, batch_size: int, devices: int) -> int:
    """Micro-batches per device per step once the batch of a schedule has grown to `batch_size`.

    It grows along, unless the schedule says otherwise, so that no micro-batch is larger than in the first epoch.
    """
    first_batch_size = schedule.at(0)
    if batch_size <= first_batch_size or not schedule.accumulate:
        return accumulate_grad_batches
    most = micro_batch_size(first_batch_size, devices, accumulate_grad_batches)
    return max(accumulate_grad_batches, ceil(Fraction(share_size(batch_size, devices, 0), most)))


@dataclass(frozen=True)
class EpochSeries:
    """Every epoch of a training without end. `schedule` stays within `num_samples`."""

    num_samples: int
    schedule: BatchSchedule
    devices: int
    accumulate_grad_batches: int
    drop_last: bool
    limit_train_batches: int | float | None

    def micro_batch_size(self, epochs: int | None) -> int:
        """Samples in the largest micro-batch of so many epochs, or of all there could be."""
        largest = self.schedule.at(0)
        if not self.schedule.accumulate and self.schedule.factor > 1:
            most = self.schedule.maximum or self.num_samples
            largest = most if epochs is None else self.schedule.at(max(epochs - 1, 0))
        return micro_batch_size(largest, self.devices, self.accumulate_grad_batches)

    def uncut_steps(self, batch_size: int) -> int:
        """Steps in an epoch of such batches, before `limit_train_batches`."""
        steps = self.num_samples // batch_size
        return steps if self.drop_last else steps + (self.num_samples % batch_size > 0)

    def steps_in_epoch(self, batch_size: int) -> int:
        """Steps in an epoch of such batches. Raises InputError if the limit leaves none by rounding."""
        steps, limit = self.uncut_steps(batch_size), self.limit_train_batches
        assert steps >= 1, f"a batch of {batch_size} from {self.num_samples} samples"
        if limit is None:
            return steps
        if isinstance(limit, int):
            return min(limit, steps)
        cut = int(steps * limit)  # in floating point, as Lightning does
        if cut == 0 and limit > 0:
            raise InputError(
                f"trainer.limit_train_batches={limit} leaves no step of an epoch with batches of"
                f" {batch_size} samples (steps in full: {steps}); use a number of steps, e.g. 1"
            )
        return cut

    def micro_batches(self, samples: int, batch_size: int) -> int:
        """Micro-batches per device in a step of so many samples, where a whole batch has `batch_size`."""
        accumulation = accumulation_at(self.accumulate_grad_batches, self.schedule, batch_size, self.devices)
        return micro_batches_of(samples, batch_size, self.devices, accumulation)

    def epoch(self, epoch: int, steps: int | None = None) -> EpochPlan:
        """Epoch `epoch` in full, or its first `steps` steps."""
        batch_size = self.schedule.at(epoch)
        steps = self.steps_in_epoch(batch_size) if steps is None else steps
        if steps == 0:
            return EpochPlan(epoch, batch_size, 0, 0, 0)
        samples = min(steps * batch_size, self.num_samples)
        in_the_last = self.micro_batches(samples - (steps - 1) * batch_size, batch_size)
        iterations = (steps - 1) * self.micro_batches(batch_size, batch_size) + in_the_last
        return EpochPlan(epoch, batch_size, steps, iterations, samples)

    def stretches(self) -> Iterator[tuple[EpochPlan, int | None]]:
        """Runs of equal epochs: the first of each, and how many they are (None: all that follow)."""
        epoch: int | None = 0
        while epoch is not None:
            change = self.schedule.next_change(epoch)
            yield self.epoch(epoch), None if change is None else change - epoch
            epoch = change

    def steps(self, duration: Duration) -> int:
        """Steps from the start until so many epochs, steps or samples are reached."""
        if duration.unit == "steps":
            return int(duration.value)
        assert duration.unit in ("epochs", "samples"), duration
        left, steps = Fraction(duration.value), 0
        for epoch, count in self.stretches():
            length = 1 if duration.unit == "epochs" else epoch.samples
            if length == 0:
                break  # limit_train_batches=0: nothing is ever reached
            whole = left // length if count is None else min(count, left // length)
            left, steps = left - whole * length, steps + whole * epoch.steps
            if whole != count:
                part = epoch.steps if duration.unit == "epochs" else Fraction(1, epoch.batch_size)
                return steps + ceil(left * part)
            if left == 0:
                break  # the next epoch is not asked for, so need not be possible
        return steps
