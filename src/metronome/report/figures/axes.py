"""What a curve can be drawn against, where its points lie there, and which of these axes show something else."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from metronome.report.events import Curve
from metronome.report.records import RunRecord

AXES = {
    "steps": "steps (parameter updates)",
    "epochs": "epochs",
    "samples": "samples seen",
    "seconds": "seconds of training",
}
SAME_FACTOR = 1.03  # factors that lie so close are one: the last batch of an epoch may be a smaller one


def positions(run: RunRecord, curve: Curve) -> dict[str, np.ndarray]:
    """Where the points of a curve lie on each axis; without a plan there are but steps and seconds.

    Seconds are those of training, without validations: the same for each iteration of a run. A run that has not
    measured them, or not ended, has those of its logs.
    """
    found = {"steps": curve.steps.astype(float), "seconds": curve.seconds}
    if run.step_table is not None:
        if (seconds := run.train_seconds) is not None and run.steps:
            done = run.step_table.iterations_at(run.steps)
            found["seconds"] = seconds * run.step_table.iterations_at(curve.steps) / np.maximum(done, 1)
        found |= {
            "epochs": run.step_table.epochs_at(curve.steps),
            "samples": run.step_table.samples_at(curve.steps).astype(float),
        }
    return found


def axes_that_differ(groups: Sequence[Sequence[Mapping[str, np.ndarray]]]) -> list[str]:
    """The axes to draw the same curves against: one of each set that differ by no more than a factor that is common to
    all groups, which would look the same.

    Args:
        groups: of each group its runs, of each run where its points lie on each axis.

    Returns:
        Steps, and what of samples, epochs and seconds is something else, in the order of `AXES`. Seconds are measured,
        so they are something else only if groups lie farther apart than the runs of a group.
    """
    known = [axis for axis in AXES if groups and all(axis in run for runs in groups for run in runs)]
    chosen = known[:1]
    for axis in [axis for axis in ("samples", "epochs", "seconds") if axis in known]:
        if all(_differ(groups, axis, other) for other in chosen):
            chosen.append(axis)
    return [axis for axis in AXES if axis in chosen]


def _differ(groups: Sequence[Sequence[Mapping[str, np.ndarray]]], axis: str, other: str) -> bool:
    """Whether one axis is not the other by a factor common to all groups, all along their curves."""
    factors = [[_factors(run[axis], run[other]) for run in runs] for runs in groups]
    if axis != "seconds" and any(max(of) > SAME_FACTOR * min(of) for runs in factors for of in runs if of):
        return True  # the factor changes along a curve, as where the batch grows
    ends = [[of[-1] for of in runs if of] for runs in factors]
    means = [fmean(of) for of in ends if of]
    within = max((max(of) / min(of) for of in ends if of), default=1.0)
    return len(means) > 1 and max(means) / min(means) > (max(SAME_FACTOR, within) if axis == "seconds" else SAME_FACTOR)


def _factors(one: np.ndarray, other: np.ndarray) -> list[float]:
    """One by the other over the second half of a curve, where the batch that an epoch ends with counts for little."""
    half = len(one) // 2
    positive = [(float(a), float(b)) for a, b in zip(one[half:], other[half:], strict=True) if a > 0 and b > 0]
    return [a / b for a, b in positive]
