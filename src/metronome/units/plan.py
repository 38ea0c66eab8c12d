"""A training in numbers, before it starts: epochs, steps, iterations, samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from math import floor
from typing import Any

from metronome.units.duration import Duration
from metronome.units.epoch_series import MAX_EPOCHS_LISTED, EpochPlan, EpochSeries, epochs_in_rows
from metronome.units.errors import InputError
from metronome.units.mixtures.mix import Mix
from metronome.units.mixtures.planned import MixedPlan
from metronome.units.plan_text import plan_text
from metronome.units.schedule import BatchSchedule
from metronome.units.split import share_size


@dataclass(frozen=True)
class Plan:
    """What a training takes. Totals and `epochs` (those begun) are None where only time, or nothing, ends it.

    `steps_per_epoch`, `iterations_per_epoch` and `batch_size` are those of the first epoch, in full;
    `micro_batch_size` is the largest micro-batch; `per_epoch` lists the first `MAX_EPOCHS_LISTED` epochs
    (the first one alone where the totals are None).

    >>> Plan.make(1000, BatchSchedule(64), budgets=[Duration.parse("10 epochs")]).total_steps
    160
    """

    num_samples: int
    batch_size: int
    devices: int
    accumulate_grad_batches: int
    micro_batch_size: int
    drop_last: bool
    epochs: int | None
    steps_per_epoch: int
    iterations_per_epoch: int
    total_steps: int | None
    total_iterations: int | None
    total_samples: int | None
    per_epoch: tuple[EpochPlan, ...]
    series: EpochSeries = field(repr=False)
    time_budget: Duration | None = field(repr=False)
    mixed: MixedPlan | None = field(default=None, repr=False)  # of a mixture of data sets

    @classmethod
    def make(
        cls,
        num_samples: int,
        schedule: BatchSchedule,
        *,
        devices: int = 1,
        accumulate_grad_batches: int = 1,
        drop_last: bool = False,
        limit_train_batches: int | float | None = None,
        budgets: Sequence[Duration] = (),
        mix: Mix | None = None,
    ) -> "Plan":
        """Plan a training that ends with whichever of `budgets` ends first. `mix`: of what its samples are.

        Raises InputError for a batch that cannot be cut up so, or a budget in percent.
        """
        batch_size = BatchSchedule.of(schedule.at(0), num_samples).batch_size
        # Micro-batches that grow may be cut for the largest batch; one that is too small is cut as far as it can be.
        most = num_samples if schedule.maximum is None else min(schedule.maximum, num_samples)
        grows = schedule.factor > 1 and not schedule.accumulate
        _check_layout(most if grows else batch_size, devices, accumulate_grad_batches)
        _check_limit(limit_train_batches)
        for budget in budgets:
            if budget.unit == "percent":
                raise InputError(f"budget='{budget}': of what? Write e.g. budget='10 epochs'")
        within = replace(schedule, maximum=min(schedule.maximum or num_samples, num_samples))
        series = EpochSeries(num_samples, within, devices, accumulate_grad_batches, drop_last, limit_train_batches)
        first = series.epoch(0)
        ends = _ends(series, [budget for budget in budgets if budget.unit != "seconds"])
        times = [budget for budget in budgets if budget.unit == "seconds"]
        total_steps = min(ends, default=None) if first.steps else 0
        if total_steps is None and within.factor > 1:
            series.steps_in_epoch(num_samples if within.maximum is None else within.maximum)
        epochs = total_iterations = total_samples = None
        per_epoch = (first,)
        if total_steps is not None:
            epochs, total_iterations, total_samples, per_epoch = _count(series, total_steps)
        return cls(
            num_samples=num_samples,
            batch_size=batch_size,
            devices=devices,
            accumulate_grad_batches=accumulate_grad_batches,
            micro_batch_size=series.micro_batch_size(epochs),
            drop_last=drop_last,
            epochs=epochs,
            steps_per_epoch=first.steps,
            iterations_per_epoch=first.iterations,
            total_steps=total_steps,
            total_iterations=total_iterations,
            total_samples=total_samples,
            per_epoch=per_epoch,
            series=series,
            time_budget=min(times, key=lambda time: time.value, default=None),
            mixed=None if mix is None else MixedPlan.of(mix, per_epoch, epochs),
        )

    def steps(self, duration: Duration | str) -> int:
        """A duration in steps of this plan; beyond its end, as if it went on.

        Raises InputError for seconds, and for percent where the total is unknown.
        """
        duration = Duration.parse(duration)
        if duration.unit == "seconds":
            raise InputError(f"`{duration}` is not known in steps; write epochs, steps, samples or %")
        if duration.unit != "percent":
            return self.series.steps(duration)
        if self.total_steps is None:
            raise InputError(f"`{duration}` needs a total: give the budget in epochs, steps or samples")
        return floor(self.total_steps * Fraction(duration.value) / 100 + Fraction(1, 2))

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain numbers and lists, ready for JSON; equal epochs are a row together."""
        names = [f.name for f in fields(self) if f.name not in ("per_epoch", "series", "time_budget", "mixed")]
        sets = {} if self.mixed is None else {"sets": self.mixed.as_dict()}
        return {name: getattr(self, name) for name in names} | {"per_epoch": epochs_in_rows(self.per_epoch)} | sets

    def text(self) -> str:
        """The plan as a short table for a terminal."""
        totals: dict[str, int] | None = None
        if self.epochs is not None and self.total_steps is not None:
            totals = {"epoch": self.epochs, "step": self.total_steps}
            totals |= {"iteration": self.total_iterations or 0, "sample": self.total_samples or 0}
        return plan_text(self.series, totals, self.time_budget, [] if self.mixed is None else self.mixed.rows())


def _ends(series: EpochSeries, budgets: Sequence[Duration]) -> list[int]:
    """The steps after which each of the budgets ends. One that would need an impossible epoch is no matter
    where another ends before; otherwise raises InputError."""
    ends: list[int] = []
    impossible: InputError | None = None
    for budget in budgets:
        try:
            ends.append(series.steps(budget))
        except InputError as error:
            impossible = error
    if impossible is not None and not ends:
        raise impossible
    return ends


def _count(series: EpochSeries, total_steps: int) -> tuple[int, int, int, tuple[EpochPlan, ...]]:
    """Epochs begun, iterations and samples in the first `total_steps` steps, and the first epochs."""
    epochs = iterations = samples = 0
    left, listed = total_steps, []
    for epoch, count in series.stretches():
        whole = left // max(epoch.steps, 1) if count is None else min(count, left // max(epoch.steps, 1))
        room = MAX_EPOCHS_LISTED - len(listed)
        listed += [replace(epoch, epoch=epochs + i) for i in range(min(whole, room))]
        epochs, left = epochs + whole, left - whole * epoch.steps
        iterations, samples = iterations + whole * epoch.iterations, samples + whole * epoch.samples
        if left and whole != count:
            last, left = series.epoch(epochs, left), 0
            listed += [last][: MAX_EPOCHS_LISTED - len(listed)]
            epochs, iterations, samples = epochs + 1, iterations + last.iterations, samples + last.samples
        if left == 0:
            break  # the next epoch is not asked for, so need not be possible
    return epochs, iterations, samples, tuple(listed)


def _check_layout(batch_size: int, devices: int, accumulate_grad_batches: int) -> None:
    for flag, value in (("devices", devices), ("accumulate_grad_batches", accumulate_grad_batches)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"trainer.{flag}={value!r} must be a whole number, 1 or more, e.g. 1")
    share = share_size(batch_size, devices, 0)
    if accumulate_grad_batches > share:
        given = f"data.batch_size={batch_size}"
        cut = f"a batch of {share} samples ({given})"
        if devices > 1:
            cut = f"each device's {share} samples of a batch ({given} on {devices} devices)"
        raise InputError(
            f"trainer.accumulate_grad_batches={accumulate_grad_batches} cuts {cut}"
            f" into more pieces than it has samples; use at most {share}"
        )


def _check_limit(limit: int | float | None) -> None:
    if limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0):
        return
    if not isinstance(limit, float) or not 0.0 <= limit <= 1.0:
        raise InputError(
            f"trainer.limit_train_batches={limit!r} must be a number of steps, e.g. 10,"
            " or a part of the epoch from 0.0 to 1.0"
        )
