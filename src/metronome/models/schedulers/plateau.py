"""A schedule that goes by what the validation measures."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metronome.models.schedulers.checks import check_part, is_number
from metronome.models.schedulers.durations import position, steps_of
from metronome.models.schedulers.warmup import rise, steps_of_warmup
from metronome.training.checkpoints.monitored import check_mode, no_direction
from metronome.training.checkpoints.restoring import set_rates
from metronome.units import Duration, InputError, Plan, direction_of


class Plateau(LambdaLR):
    """Multiplies the rate by `factor` at a validation that is `patience` or more after the last improvement.

    It is judged at each validation, wherever in an epoch, at the number of steps taken there: by our Trainer for any
    module, by a `Supervised` in any Trainer.
    After a reduction, and at the end of the warm-up, the patience begins anew. With a validation at the end of each
    epoch, `patience: 3 epochs` is `patience=2` of `torch.optim.lr_scheduler.ReduceLROnPlateau`, which counts the
    validations that it puts up with.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; without one durations are given in steps.
        monitor: the name of a metric that the validation logs; one of the training has not been logged by then, or is
            that of an earlier step.
        mode: `min` if less of it is better, `max` if more; None: as the torchmetric that is logged under the name says,
            or the name.
        patience: a duration: `3 epochs`, `500 steps`, `10%`.
        factor: between 0 and 1.
        threshold: an improvement is one by more than this part of the best value so far.
        final: the factor that all reductions together do not go below, from 0 to 1.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: for a value that is not allowed; from `judge`, if the metric is not logged.
    """

    _GIVEN = ("monitor", "mode", "open_mode", "patience", "threshold", "_by", "_final", "_plan", "_warmup_steps")

    def __init__(
        self,
        optimizer: Optimizer,
        plan: Plan | None = None,
        monitor: str = "val/loss",
        mode: str | None = None,
        patience: str | Duration = "10 epochs",
        factor: float = 0.1,
        threshold: float = 1e-4,
        final: float = 0.0,
        warmup: str | Duration = "0 steps",
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise InputError(f"scheduler.monitor={monitor!r} is not the name of a metric, such as val/loss")
        check_mode(mode, "scheduler.mode")
        if not is_number(factor) or not 0 < factor < 1:
            raise InputError(f"scheduler.factor={factor!r} is not a factor between 0 and 1")
        if not is_number(threshold) or threshold < 0:
            raise InputError(f"scheduler.threshold={threshold!r} is not a part of the best value, from 0 up")
        check_part("final", final)
        length, patience_steps = Duration.parse(patience), steps_of(plan, "patience", patience)
        self.monitor, self.mode, self.threshold = monitor, mode or direction_of(monitor), float(threshold)
        self.open_mode = "scheduler.mode" if mode is None else None  # when a fit begins, its metric is asked too
        self.patience = Duration(patience_steps, "steps") if length.unit == "percent" else length
        self._by, self._final, self._plan = float(factor), float(final), plan
        self._warmup_steps = steps_of_warmup(plan, warmup)
        self.factor = 1.0  # of all reductions so far
        self.best: float | None = None
        self.since = 0  # the step of the last improvement or reduction
        self.judged = -1  # the step of the last judgement
        rises = rise(plan, warmup)
        super().__init__(optimizer, lambda step: rises(step) * self.factor)

    def judge(self, metrics: Mapping[str, Any]) -> None:
        """Look at the metrics of a validation, and set the rate of the next step. Twice at one step counts once."""
        if self.monitor not in metrics:
            names = ", ".join(sorted(metrics)) or "nothing"
            raise InputError(f"scheduler.monitor={self.monitor} is not logged; there is: {names}")
        if self.mode is None:
            no_direction(self.monitor, "scheduler.mode")
        here, value = self.last_epoch, float(metrics[self.monitor])
        if here == self.judged:
            return
        self.judged = here
        if self._is_better(value):
            self.best, self.since = value, here
        elif self._waited(here) >= self.patience.value:
            self.factor, self.since = max(self.factor * self._by, self._final), here
            set_rates(self)  # that of the next step, set after the step before the validation

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False  # as the best so far it could not be improved on: by a part of it is by infinity
        if self.best is None:
            return True
        margin = self.threshold * abs(self.best)
        return value < self.best - margin if self.mode == "min" else value > self.best + margin

    def _waited(self, step: int) -> Fraction:
        """Since the last improvement or reduction, in the unit of the patience."""
        since = max(self.since, min(self._warmup_steps, step))
        return position(self._plan, step, self.patience) - position(self._plan, since, self.patience)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; what the configuration gives is not among them."""
        return {name: value for name, value in super().state_dict().items() if name not in self._GIVEN}
