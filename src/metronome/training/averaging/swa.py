"""The mean of the weights over the end of a training."""

from typing import Any

import lightning as L

from metronome.training.averaging.average import Average, plan_of
from metronome.training.averaging.batch_norm import renew
from metronome.units import Duration, InputError


class SWA(Average):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407): the mean of the weights as they are every
    so often from `start` on, each counting the same.

    The rate stays what its schedule says; the mean gains most where that is not yet small (`scheduler=constant`, or the
    paper's cycles). For each validation, and at the end, BatchNorm's means are made anew at the averaged weights: one
    pass forward over the training data.

    Args:
        start: a duration; the first weights that count are those right after it.
        every: a duration from one to the next; in epochs and samples rounded as a plan rounds, to steps.
        renew_batch_norm: false: its means and variances are averaged like weights.

    Raises:
        InputError: for what is no such duration.
    """

    precedes = 1

    def __init__(
        self, start: str | Duration = "75%", every: str | Duration = "1 epoch", renew_batch_norm: bool = True
    ) -> None:
        super().__init__()
        self.start, self.every, self.renew_batch_norm = Duration.parse(start), Duration.parse(every), renew_batch_norm
        if not self.every.value or self.every.unit == "percent":
            raise InputError(f"swa.every={every} must be epochs, steps or samples, above 0; for example 1 epoch")
        self._first, self._every_steps = 0, 1
        self._renewed = -1  # at which update

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        start_plan = plan_of(trainer, "swa.start", self.start)
        every_plan = plan_of(trainer, "swa.every", self.every)
        self._renewed = -1
        self._first = int(self.start.value) if start_plan is None else start_plan.steps(self.start)
        self._every_steps = int(self.every.value) if every_plan is None else max(1, every_plan.steps(self.every))

    def after_step(self, trainer: Any, module: L.LightningModule) -> None:
        steps = trainer.global_step - max(1, self._first)
        if steps >= 0 and steps % self._every_steps == 0:
            self._mix(module, 1 / (self.updates + 1))

    def ready(self, trainer: Any, module: L.LightningModule) -> None:
        if self.renew_batch_norm and self._renewed != self.updates:
            renew(trainer, module)
            self._renewed = self.updates
