"""Where a training ends whose module optimizes manually: after the batches of its budget, not after as many updates."""

import logging
from typing import Any

from metronome.training.lightning_private import TrainingEpochLoopBase

log = logging.getLogger("metronome.training")


class StepLimit(TrainingEpochLoopBase):
    """Lightning's loop, whose `max_steps` counts updates. One batch is a step, though with two optimizers it is two
    updates; a `budget`, which is worked out in batches, ends after those.

    Attributes:
        counts_batches: whether the limit is one of batches. Then `max_steps` is -1 until they are made.
        samples_to_see: the limit where it is one of samples, of data whose length nobody knows; likewise.
    """

    counts_batches = False
    samples_to_see: int | None = None
    _limit = -1

    @property
    def max_steps(self) -> int:  # pyright: ignore
        if self.samples_to_see is not None:
            seen: int = self.state.counters.samples  # pyright: ignore
            return self.global_step if seen >= self.samples_to_see else -1
        if not self.counts_batches or self._limit == -1:
            return self._limit
        progress: Any = self.batch_progress
        return self.global_step if progress.total.ready >= self._limit else -1

    @max_steps.setter
    def max_steps(self, limit: int) -> None:
        self._limit = limit

    def is_judged_at_its_end(self) -> bool:
        """True: a run that ends where no validation is due, in mid-epoch, is validated all the same, and what it leaves
        is judged. Lightning does not, so that it is said of a run that Lightning's flag has ended."""
        trainer: Any = self.trainer
        if trainer.budget is None and trainer.is_global_zero:
            log.info("max_steps=%s ends the training where no validation is due: it is validated there", self._limit)
        return True
