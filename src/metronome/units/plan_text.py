"""The plan as a person would work it out on paper."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

from metronome.units.duration import Duration
from metronome.units.epoch_series import EpochPlan, EpochSeries
from metronome.units.split import even_split, share_size

Row = tuple[str, str]  # label, text

MAX_STRETCHES_SHOWN = 12


def plan_text(
    series: EpochSeries, totals: Mapping[str, int] | None, time_budget: Duration | None, sets: Sequence[Row] = ()
) -> str:
    """A table of at most 80 columns: samples, batch, epochs, total.

    Args:
        series: the epochs, as if no budget ended them.
        totals: what the budget allows, by the words epoch, step, iteration and sample; None if that is not known.
        time_budget: the time that ends the training, if not the budget before.
        sets: rows about the sets of a mixture.
    """
    epochs = None if totals is None else totals["epoch"]
    rows = [("samples", f"{series.num_samples:,} in an epoch"), *sets, ("batch", _batch(series))]
    if series.schedule.is_constant:
        rows += _arithmetic(series, "epoch", series.epoch(0))
    else:
        rows += [("", _growth(series, epochs)), *_stretches(series, epochs)]
    rows += _total(series, totals, time_budget)
    width = max(11, *(len(label) + 2 for label, _ in rows))
    lines = [
        f"{'' if i else label:{width}}{line}"
        for label, text in rows
        for i, line in enumerate(wrap(text, max(80 - width, 40), break_long_words=False))
    ]
    return "\n".join(lines)


def _batch(series: EpochSeries) -> str:
    batch_size, devices = series.schedule.at(0), series.devices
    accumulation = series.micro_batches(batch_size, batch_size)
    # At most two sizes of share occur: that of the first device and that of the last.
    shares = {share_size(batch_size, devices, 0), share_size(batch_size, devices, devices - 1)}
    sizes = sorted({size for share in shares for size in even_split(share, accumulation)} - {0})
    at_most = "up to " if min(shares) < accumulation else ""
    return (
        f"{batch_size:,} = {_count(devices, 'device')} x {at_most}{_count(accumulation, 'micro-batch')}"
        f" of {' or '.join(f'{size:,}' for size in sizes)}"
    )


def _growth(series: EpochSeries, epochs: int | None) -> str:
    schedule = series.schedule
    every = "every epoch" if schedule.every == 1 else f"every {schedule.every:,} epochs"
    largest = _count(series.micro_batch_size(epochs), "sample")
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


def _total(series: EpochSeries, totals: Mapping[str, int] | None, time_budget: Duration | None) -> list[Row]:
    if totals is None:
        end = f"ends after {time_budget}" if time_budget else "no end"
        return [("total", f"{end}: the number of steps is not known")]
    last = max(totals["epoch"] - 1, 0)
    taken, full = totals["step"] - series.steps(Duration(last, "epochs")), series.epoch(last).steps
    rows = [("total", " = ".join(_count(number, noun) for noun, number in totals.items()))]
    if 0 < taken < full:
        rows.append(("", f"the last epoch is cut short: {taken:,} of {_count(full, 'step')}"))
    if time_budget:
        rows.append(("", f"or fewer: ends after {time_budget} at the latest"))
    return rows


def _count(number: int, noun: str) -> str:
    plural = {"micro-batch": "micro-batches"}.get(noun, noun + "s")
    return f"{number:,} {noun if number == 1 else plural}"
