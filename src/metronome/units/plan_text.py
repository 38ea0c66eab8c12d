"""The plan as a person would work it out on paper."""

from textwrap import wrap
from typing import TYPE_CHECKING

from metronome.units.duration import Duration
from metronome.units.epoch_series import EpochPlan, EpochSeries
from metronome.units.split import even_split, share_size

if TYPE_CHECKING:
    from metronome.units.plan import Plan

Row = tuple[str, str]  # label, text

MAX_STRETCHES_SHOWN = 12


def plan_text(plan: "Plan") -> str:
    """A table of at most 100 columns: samples, batch, epochs, total."""
    series = plan.series
    rows = [("samples", f"{series.num_samples:,} in an epoch"), ("batch", _batch(series))]
    if series.schedule.is_constant:
        rows += _arithmetic(series, "epoch", series.epoch(0))
    else:
        rows += [("", _growth(plan)), *_stretches(series, plan.epochs)]
    rows += _total(plan)
    width = max(11, *(len(label) + 2 for label, _ in rows))
    lines = [
        f"{'' if i else label:{width}}{line}"
        for label, text in rows
        for i, line in enumerate(wrap(text, max(100 - width, 40), break_long_words=False))
    ]
    return "\n".join(lines)


def _batch(series: EpochSeries) -> str:
    batch_size, devices = series.schedule.at(0), series.devices
    accumulation = series.accumulation(batch_size)
    # At most two sizes of share occur: that of the first device and that of the last.
    shares = {share_size(batch_size, devices, 0), share_size(batch_size, devices, devices - 1)}
    sizes = sorted({size for share in shares for size in even_split(share, accumulation)} - {0})
    at_most = "up to " if min(shares) < accumulation else ""
    return (
        f"{batch_size:,} = {_count(devices, 'device')} x {at_most}{_count(accumulation, 'micro-batch')}"
        f" of {' or '.join(f'{size:,}' for size in sizes)}"
    )


def _growth(plan: "Plan") -> str:
    schedule = plan.series.schedule
    every = "every epoch" if schedule.every == 1 else f"every {schedule.every:,} epochs"
    largest = _count(plan.micro_batch_size, "sample")
    return f"times {float(schedule.factor):g} {every}; no micro-batch above {largest}"


def _stretches(series: EpochSeries, epochs: int | None) -> list[Row]:
    """A row for each run of equal epochs; epochs are numbered from 0, as in Lightning and in `per_epoch`."""
    rows: list[Row] = []
    for number, (epoch, count) in enumerate(series.stretches(), 1):
        first, following = epoch.epoch, None if count is None else epoch.epoch + count
        if epochs is not None and (following is None or following > epochs):
            following = max(epochs, 1)
        label = f"epochs {first:,}-{'' if following is None else format(following - 1, ',')}"
        rows += _arithmetic(series, f"epoch {first:,}" if following == first + 1 else label, epoch)
        if following is None or (epochs is not None and following >= epochs):
            break
        if number == MAX_STRETCHES_SHOWN:
            rows.append(("...", f"and so on from epoch {following:,}"))
            break
    return rows


def _arithmetic(series: EpochSeries, label: str, epoch: EpochPlan) -> list[Row]:
    uncut = series.uncut_steps(epoch.batch_size)
    rest = series.num_samples % epoch.batch_size
    text = f"{series.num_samples:,} / {epoch.batch_size:,} = {_count(uncut, 'step')}"
    notes: list[str] = []
    if epoch.steps < uncut:
        text += f", cut to {epoch.steps:,} by limit_train_batches"
        notes = [f"{_count(series.num_samples - epoch.samples, 'sample')} of each epoch not seen"]
    elif rest and series.drop_last:
        notes = [f"{_count(rest, 'sample')} left out of each epoch by drop_last"]
    elif rest:
        text += f" (the last of {_count(rest, 'sample')})"
    if series.schedule.factor > 1 and epoch.batch_size == series.num_samples:
        notes.append(f"the batch is capped at all {series.num_samples:,} samples")
    return [(label, f"{text} = {_count(epoch.iterations, 'iteration')}"), *(("", note) for note in notes)]


def _total(plan: "Plan") -> list[Row]:
    time = plan.time_budget
    if plan.epochs is None or plan.total_steps is None:
        return [("total", f"{f'ends after {time}' if time else 'no end'}: the number of steps is not known")]
    last = max(plan.epochs - 1, 0)
    taken, full = (
        plan.total_steps - plan.series.steps(Duration(last, "epochs")),
        plan.series.epoch(last).steps,
    )
    totals = {"epoch": plan.epochs, "step": plan.total_steps}
    totals |= {"iteration": plan.total_iterations or 0, "sample": plan.total_samples or 0}
    rows = [("total", " = ".join(_count(number, noun) for noun, number in totals.items()))]
    if 0 < taken < full:
        rows.append(("", f"the last epoch is cut short: {taken:,} of {_count(full, 'step')}"))
    if time:
        rows.append(("", f"or fewer: ends after {time} at the latest"))
    return rows


def _count(number: int, noun: str) -> str:
    plural = {"micro-batch": "micro-batches"}.get(noun, noun + "s")
    return f"{number:,} {noun if number == 1 else plural}"
