"""From steps to samples and epochs, by the table of epochs in a run's plan."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from metronome.units import BatchSchedule, EpochPlan, InputError
from metronome.units.epoch_series import EpochSeries, epochs_of_rows

MOST_EPOCHS = 2_000_000  # of a run; steps beyond are taken for damage


@dataclass(frozen=True)
class StepTable:
    """The epochs of a run, as its plan lists them, and beyond the list as they would go on.

    All arrays have one entry an epoch: its `batch_size`, the `steps`, `iterations` and `samples` in it, and the samples
    it has when it is not cut short by the budget (`full_samples`); `steps_before`, `samples_before` and
    `iterations_before` it.
    """

    batch_size: np.ndarray
    steps: np.ndarray
    iterations: np.ndarray
    samples: np.ndarray
    full_samples: np.ndarray
    steps_before: np.ndarray
    samples_before: np.ndarray
    iterations_before: np.ndarray

    @classmethod
    def of(cls, plan: dict[str, Any], config: dict[str, Any], least_steps: int = 0) -> "StepTable":
        """From plan.json and config.yaml, with epochs for at least so many steps.

        Raises ValueError, TypeError or KeyError for a plan that is not one.
        """
        listed = epochs_of_rows(plan["per_epoch"])
        if not listed:
            raise ValueError("the plan has no epoch")
        endless = _endless(plan, config, listed[-1].batch_size)
        whole_last = endless.epoch(listed[-1].epoch)
        beyond = least_steps > sum(row.steps for row in listed)
        rows = [(row, 1) for row in listed[:-1]]
        rows.append((whole_last if beyond else listed[-1], 1))
        if beyond:
            rows += _beyond(endless, len(listed), least_steps - sum(row.steps for row, _ in rows))
        times = [count for _, count in rows]
        size, steps, iterations, samples = (
            np.repeat([getattr(row, name) for row, _ in rows], times)
            for name in ("batch_size", "steps", "iterations", "samples")
        )
        full = samples.copy()
        full[len(listed) - 1] = max(listed[-1].samples, whole_last.samples)
        before = (np.cumsum(counts) - counts for counts in (steps, samples, iterations))
        return cls(size, steps, iterations, samples, full, *before)

    def samples_at(self, steps: Any) -> np.ndarray:
        """Samples seen after so many steps: whole batches, and the last of an epoch as small as it is."""
        steps = np.asarray(steps)
        epoch = self._epoch(steps)
        seen = (steps - self.steps_before[epoch]) * self.batch_size[epoch]
        return self.samples_before[epoch] + np.minimum(seen, self.samples[epoch])

    def iterations_at(self, steps: Any) -> np.ndarray:
        """Iterations (micro-batches on a device) made after so many steps."""
        steps = np.asarray(steps)
        epoch = self._epoch(steps)
        part = (steps - self.steps_before[epoch]) / np.maximum(self.steps[epoch], 1)
        return self.iterations_before[epoch] + part * self.iterations[epoch]

    def epochs_at(self, steps: Any) -> np.ndarray:
        """Epochs done after so many steps: whole ones, and the part of the samples seen of the one begun."""
        epoch = self._epoch(np.asarray(steps))
        seen = self.samples_at(steps) - self.samples_before[epoch]
        return epoch + seen / np.maximum(self.full_samples[epoch], 1)

    def batch_size_at(self, steps: Any) -> np.ndarray:
        """Samples in the batch of the step that ends there."""
        return self.batch_size[self._epoch(np.asarray(steps))]

    def _epoch(self, steps: np.ndarray) -> np.ndarray:
        """The epoch in which the last of so many steps was."""
        ends = self.steps_before + self.steps
        return np.minimum(np.searchsorted(ends, steps, side="left"), len(ends) - 1)


def _endless(plan: dict[str, Any], config: dict[str, Any], batch_size: int) -> EpochSeries:
    """The epochs of a run as if no budget ended it. With data of the user's own, the batch stays as it is."""
    data, trainer = config.get("data") or {}, config.get("trainer") or {}
    size, samples = data.get("batch_size"), plan["num_samples"]
    try:
        schedule = BatchSchedule.of(size, samples, data.get("batch_growth"))  # pyright: ignore
    except (InputError, TypeError):
        schedule = BatchSchedule(batch_size, maximum=samples)
    if schedule.is_constant:
        schedule = BatchSchedule(batch_size, maximum=samples)
    limit = trainer.get("limit_train_batches")
    cut = (plan["devices"], plan["accumulate_grad_batches"], plan["drop_last"])
    return EpochSeries(samples, schedule, *cut, limit if isinstance(limit, int | float) else None)


def _beyond(endless: EpochSeries, first: int, steps: int) -> list[tuple[EpochPlan, int]]:
    """Epochs from number `first` on, until they have so many steps: equal ones once, with their number."""
    rows: list[tuple[EpochPlan, int]] = []
    for row, count in endless.stretches():
        if steps <= 0 or row.steps == 0:
            break
        left = math.inf if count is None else row.epoch + count - max(row.epoch, first)
        if left <= 0:
            continue
        needed = int(min(left, -(-steps // row.steps)))
        rows.append((row, needed))
        steps -= needed * row.steps
        if sum(number for _, number in rows) > MOST_EPOCHS:
            raise ValueError(f"more than {MOST_EPOCHS:,} epochs")
    return rows
