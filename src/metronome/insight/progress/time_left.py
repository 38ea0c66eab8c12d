"""How much of a training is done, and how long the rest takes: by its samples, by its time, and of a sweep."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.callbacks import Timer

from metronome.training import Trainer
from metronome.units import Plan

RECENT_EPOCHS = 3


@dataclass(frozen=True)
class JobOfSweep:
    """A job of a sweep: its number from 1 on, how many there are, and the seconds that one has taken so far, on
    average; None before the first has ended."""

    number: int
    jobs: int | None
    seconds_each: float | None = None


class TimeLeft:
    """The time left at the speed of the last epochs, with all that goes on in them, validation too.

    A training that has both a budget in time and one in samples ends with whichever ends first.
    """

    def __init__(self, trainer: Trainer, plan: Plan | None, job: JobOfSweep | None, now: float) -> None:
        callbacks: list[Any] = trainer.callbacks  # pyright: ignore
        self.trainer, self.job, self.began = trainer, job, now
        self.samples = None if plan is None else plan.total_samples
        self.timers = [callback for callback in callbacks if isinstance(callback, Timer)]
        # (seconds, samples) when each of the last epochs began
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT_EPOCHS)

    def begin_epoch(self, now: float) -> None:
        self.recent.append((now, self.trainer.counters.samples))

    def of_run(self, now: float) -> tuple[float | None, float | None]:
        """Seconds left, and the part that is done, from 0 to 1; None where they are not known."""
        seconds, parts = [], []
        samples, (then, samples_then) = self.trainer.counters.samples, self.recent[0]
        if self.samples:
            parts.append(samples / self.samples)
            if samples > samples_then:
                each = (now - then) / (samples - samples_then)
                seconds.append(max(0, self.samples - samples) * each)
        for timer in self.timers:
            if (left := timer.time_remaining()) is not None:
                seconds.append(max(left, 0.0))
                parts.append(1 - seconds[-1] / max(left + timer.time_elapsed(), 1e-9))
        return min(seconds, default=None), max(parts, default=None)

    def of_all(self, now: float) -> tuple[float | None, float | None]:
        """The same of the sweep where the run is a job of one: jobs to come take as long as those before have, or, in
        the first, as this one takes."""
        left, done = self.of_run(now)
        if self.job is None or self.job.jobs is None:
            return left, done
        if left is not None:
            each = self.job.seconds_each or (now - self.began + left)
            left += max(self.job.jobs - self.job.number, 0) * each
        return left, (self.job.number - 1 + (done or 0.0)) / self.job.jobs
