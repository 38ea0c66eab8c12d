"""Learning-rate schedules over a whole run. Each is called with the optimizer and, by the model, the run's plan.

All are a factor of the optimizer's rate at each step, the first being 0: the rise of the warm-up times what is said of
each. A warm-up of w steps rises linearly, (step + 1) / (w + 1), as in Goyal et al. (2017), arXiv 1706.02677. The last
step of a run is number `total_steps` - 1; from there on the factor stays.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metronome.training.checkpoints.restoring import set_rates
from metronome.units import Duration, InputError, Plan

# The part of the rate that is left, from 1 to 0, after a part of the decay, from 0 to 1.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda part: 1 - part,
    "sqrt": lambda part: 1 - math.sqrt(part),
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
}


def constant(optimizer: Optimizer, plan: Plan | None = None, warmup: str | Duration = "0 steps") -> LambdaLR:
    """Keep the rate as it is, after the warm-up.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; without one a warm-up is given in steps.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: if the warm-up takes the whole run.
    """
    return _schedule(optimizer, _rise(plan, warmup), lambda step: 1.0)


def step(
    optimizer: Optimizer,
    plan: Plan,
    every: str | Duration = "10 epochs",
    factor: float = 0.1,
    warmup: str | Duration = "0 steps",
) -> LambdaLR:
    """Multiply the rate by `factor` after each `every`, counted from the start of the run.

    Where the batch grows, epochs have different numbers of steps; epochs are counted as they are.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; it need not have an end.
        every: a duration above zero: `10 epochs`, `500 steps`, `25%`.
        factor: above 0.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: for a value that is not allowed, or a warm-up that takes the whole run.
    """
    _check_above_zero("factor", factor)
    length = Duration.parse(every)
    if length.value == 0:
        raise InputError(f"scheduler.every={every} is no time at all; give for example scheduler.every='10 epochs'")
    plan.steps(length)  # or say now what is wrong with it

    def falls(step: int) -> int:
        if length.unit != "percent":
            return int(_position(plan, step, length) / length.value)
        multiples = range(1, int(100 / length.value) + 1)
        return bisect_right(multiples, step, key=lambda n: plan.steps(Duration(n * length.value, "percent")))

    if plan.total_steps is not None:
        _power(optimizer, factor, falls(plan.total_steps))
    return _schedule(optimizer, _rise(plan, warmup), lambda step: _power(optimizer, factor, falls(step)))


def multistep(
    optimizer: Optimizer,
    plan: Plan,
    at: Sequence[str | Duration] = ("50%", "75%"),
    factor: float = 0.1,
    warmup: str | Duration = "0 steps",
) -> LambdaLR:
    """Multiply the rate by `factor` at each of the given times, counted from the start of the run.

    Source: He et al. (2016), arXiv 1512.03385, who divide it by 10 at 50 % and 75 % of the training.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; it needs an end only for times in percent.
        at: durations, rising: `[30 epochs, 60 epochs]`, `[50%, 75%]`.
        factor: above 0.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: for a value that is not allowed, or a warm-up that takes the whole run.
    """
    _check_above_zero("factor", factor)
    if isinstance(at, str) or not isinstance(at, Sequence):
        raise InputError(f"scheduler.at={at!r} is not a list of durations; write for example scheduler.at=[50%,75%]")
    if not at:
        raise InputError("scheduler.at=[] has no time; write for example scheduler.at=[50%,75%], or scheduler=constant")
    times = [Duration.parse(time) for time in at]
    steps = [plan.steps(time) for time in times]
    # In a short run two times may fall on the same step; that is no mistake.
    if steps != sorted(steps) or len(set(times)) < len(times):
        given = ",".join(str(time) for time in at)
        raise InputError(f"scheduler.at=[{given}] does not rise; give each time once, the earliest first")
    _power(optimizer, factor, bisect_right(steps, plan.total_steps or 0))
    return _schedule(optimizer, _rise(plan, warmup), lambda step: _power(optimizer, factor, bisect_right(steps, step)))


def cosine(optimizer: Optimizer, plan: Plan, warmup: str | Duration = "0 steps", final: float = 0.0) -> LambdaLR:
    """Rise linearly over the warm-up, then fall along half a cosine to `final` times the rate at the last step.

    Source: Loshchilov & Hutter (2017), arXiv 1608.03983, without restarts.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.
        final: the factor reached at the end, from 0 to 1.

    Raises:
        InputError: if the plan has no end, or the warm-up takes all of it.
    """
    total_steps = _end("cosine", plan)
    _check_part("final", final)
    warmup_steps = _warmup_steps(plan, warmup)

    def fall(step: int) -> float:
        part = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
        return final + (1 - final) * _SHAPES["cosine"](min(1.0, max(0.0, part)))

    return _schedule(optimizer, _rise(plan, warmup), fall)


def wsd(
    optimizer: Optimizer,
    plan: Plan,
    warmup: str | Duration = "0 steps",
    decay: str | Duration = "20%",
    final: float = 0.0,
    shape: str = "sqrt",
) -> LambdaLR:
    """Warm-up, stable, decay: rise, keep the rate, and let it fall over the last part of the run.

    What was trained at the stable rate can be trained on: only the decay depends on where the run ends.

    Source: Hu et al. (2024), arXiv 2404.06395; shape and length of the decay: Hägele et al. (2024), arXiv 2405.18392.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.
        decay: the duration of the decay, at the end of the run. Epochs and samples are counted from the run's start. A
            run of one step has none: it is at the full rate.
        final: the factor reached at the end, from 0 to 1.
        shape: of the decay, after a part p of it: `linear`, 1 - p; `sqrt`, 1 - sqrt(p); `cosine`, (1 + cos(pi p)) / 2.

    Raises:
        InputError: if the plan has no end, or warm-up and decay are longer than the run.
    """
    total_steps = _end("wsd", plan)
    _check_part("final", final)
    if shape not in _SHAPES:
        raise InputError(f"scheduler.shape={shape} is not known; there are: {', '.join(_SHAPES)}")
    warmup_steps, decay_steps = _warmup_steps(plan, warmup), plan.steps(decay)
    parts = [Duration.parse(warmup), Duration.parse(decay)]
    if all(part.unit == "percent" for part in parts) and sum(part.value for part in parts) <= 100:
        decay_steps = min(decay_steps, total_steps - warmup_steps)  # both may have been rounded up
    if warmup_steps + decay_steps > total_steps:
        raise InputError(
            f"scheduler.warmup={warmup} and scheduler.decay={decay} are {warmup_steps} + {decay_steps} steps, and the "
            f"run has {total_steps}; make them shorter"
        )

    if total_steps == 1:
        decay_steps = 0  # or its only step would be at the final rate, 0

    def fall(step: int) -> float:
        part = (step - (total_steps - 1 - decay_steps)) / max(1, decay_steps)
        return final + (1 - final) * _SHAPES[shape](min(1.0, max(0.0, part))) if decay_steps else 1.0

    return _schedule(optimizer, _rise(plan, warmup), fall)


def onecycle(
    optimizer: Optimizer,
    plan: Plan,
    warmup: str | Duration = "30%",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> LambdaLR:
    """Rise along half a cosine from a small rate to the optimizer's, then fall along one to almost nothing.

    The very rates of `torch.optim.lr_scheduler.OneCycleLR(max_lr=lr, pct_start=0.3, cycle_momentum=False)`: a peak in
    percent may lie between two steps. The optimizer's momentum is left as it is.

    Source: Smith & Topin (2018), arXiv 1708.07120.

    Args:
        optimizer: its `lr` is the highest rate.
        plan: the run's plan.
        warmup: a duration, that of the rise: `500 steps`, `2 epochs`, `30%`.
        div_factor: the first rate is lr / div_factor.
        final_div_factor: the last rate is lr / div_factor / final_div_factor.

    Raises:
        InputError: if the plan has no end, the rise takes all of it, or a divisor is not above 0.
    """
    total_steps = _end("onecycle", plan)
    _check_above_zero("div_factor", div_factor)
    _check_above_zero("final_div_factor", final_div_factor)
    length = Duration.parse(warmup)
    if length.unit == "percent" and length.value < 100:
        rise_steps = float(total_steps * Fraction(length.value) / 100)
    else:
        rise_steps = _warmup_steps(plan, length)
    first, peak = 1 / div_factor, rise_steps - 1
    last = first / final_div_factor
    for name, value, factor_there in (("div_factor", div_factor, first), ("final_div_factor", final_div_factor, last)):
        if not _is_rate(optimizer, factor_there):
            raise InputError(f"scheduler.{name}={value} makes the rate infinite; 1 or more is usual")

    def factor(step: int) -> float:
        if step <= peak:
            return 1 + (first - 1) * _SHAPES["cosine"](step / peak if peak else 1.0)
        part = (step - peak) / (total_steps - 1 - peak)
        return last + (1 - last) * _SHAPES["cosine"](min(1.0, part))

    return LambdaLR(optimizer, factor)


class Plateau(LambdaLR):
    """Multiplies the rate by `factor` at a validation that is `patience` or more after the last improvement.

    It is judged at each validation, wherever in an epoch, at the number of steps taken there; a `Supervised` does it.
    After a reduction, and at the end of the warm-up, the patience begins anew. With a validation at the end of each
    epoch, `patience: 3 epochs` is `patience=2` of `torch.optim.lr_scheduler.ReduceLROnPlateau`, which counts the
    validations that it puts up with.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan; without one durations are given in steps.
        monitor: the name of a metric that the validation logs; one of the training has not been logged by then, or is
            that of an earlier step.
        mode: `min` if less of it is better, `max` if more.
        patience: a duration: `3 epochs`, `500 steps`, `10%`.
        factor: between 0 and 1.
        threshold: an improvement is one by more than this part of the best value so far.
        final: the factor that all reductions together do not go below, from 0 to 1.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.

    Raises:
        InputError: for a value that is not allowed; from `judge`, if the metric is not logged.
    """

    _GIVEN = ("monitor", "mode", "patience", "threshold", "_by", "_final", "_plan", "_warmup_steps")

    def __init__(
        self,
        optimizer: Optimizer,
        plan: Plan | None = None,
        monitor: str = "val/loss",
        mode: str = "min",
        patience: str | Duration = "10 epochs",
        factor: float = 0.1,
        threshold: float = 1e-4,
        final: float = 0.0,
        warmup: str | Duration = "0 steps",
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise InputError(f"scheduler.monitor={monitor!r} is not the name of a metric, such as val/loss")
        if mode not in ("min", "max"):
            raise InputError(f"scheduler.mode={mode} is neither min nor max")
        if not _is_number(factor) or not 0 < factor < 1:
            raise InputError(f"scheduler.factor={factor!r} is not a factor between 0 and 1")
        if not _is_number(threshold) or threshold < 0:
            raise InputError(f"scheduler.threshold={threshold!r} is not a part of the best value, from 0 up")
        _check_part("final", final)
        length, patience_steps = Duration.parse(patience), _steps(plan, "patience", patience)
        self.monitor, self.mode, self.threshold = monitor, mode, float(threshold)
        self.patience = Duration(patience_steps, "steps") if length.unit == "percent" else length
        self._by, self._final, self._plan = float(factor), float(final), plan
        self._warmup_steps = _warmup_steps(plan, warmup)
        self.factor = 1.0  # of all reductions so far
        self.best: float | None = None
        self.since = 0  # the step of the last improvement or reduction
        self.judged = -1  # the step of the last judgement
        rise = _rise(plan, warmup)
        super().__init__(optimizer, lambda step: rise(step) * self.factor)

    def judge(self, metrics: Mapping[str, Any]) -> None:
        """Look at the metrics of a validation, and set the rate of the next step. Twice at one step counts once."""
        if self.monitor not in metrics:
            names = ", ".join(sorted(metrics)) or "nothing"
            raise InputError(f"scheduler.monitor={self.monitor} is not logged; there is: {names}")
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
        return _position(self._plan, step, self.patience) - _position(self._plan, since, self.patience)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; what the configuration gives is not among them."""
        return {name: value for name, value in super().state_dict().items() if name not in self._GIVEN}


# ---- what they have in common ----------------------------------------------------------------------------


def _schedule(optimizer: Optimizer, rise: Callable[[int], float], after: Callable[[int], float]) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: rise(step) * after(step))


def _rise(plan: Plan | None, warmup: str | Duration) -> Callable[[int], float]:
    steps = _warmup_steps(plan, warmup)
    return lambda step: (step + 1) / (steps + 1) if step < steps else 1.0


def _warmup_steps(plan: Plan | None, warmup: str | Duration) -> int:
    """Raises InputError if the run has no step left after the warm-up."""
    steps, total_steps = _steps(plan, "warmup", warmup), None if plan is None else plan.total_steps
    if total_steps and steps >= total_steps:
        raise InputError(f"scheduler.warmup={warmup} is {steps} steps, and the run has {total_steps}; make it shorter")
    return steps


def _steps(plan: Plan | None, name: str, duration: str | Duration) -> int:
    """A duration in steps; without a plan, one that is given in them."""
    if plan is not None:
        return plan.steps(duration)
    length = Duration.parse(duration)
    if length.unit != "steps" and length.value:
        raise InputError(f"scheduler.{name}={duration} needs training data of a known length; give it in steps")
    return int(length.value)


def _position(plan: Plan | None, step: int, duration: Duration) -> Fraction:
    """So many epochs, steps or samples, in the unit of the duration, are done after so many steps: exact."""
    if plan is None or duration.unit not in ("epochs", "samples"):
        return Fraction(step)
    position = Fraction(0)
    for epoch, count in plan.series.stretches():
        if epoch.steps == 0:
            break  # limit_train_batches=0: nothing is ever done
        whole = step // epoch.steps if count is None else min(count, step // epoch.steps)
        step -= whole * epoch.steps
        position += whole * (1 if duration.unit == "epochs" else epoch.samples)
        if whole != count:
            part = Fraction(step, epoch.steps) if duration.unit == "epochs" else step * epoch.batch_size
            return position + part
    return position


def _end(name: str, plan: Plan) -> int:
    """The number of steps in the run. Raises InputError where it has no end, or no step."""
    if plan.total_steps is None:
        raise InputError(f"scheduler={name} must know the end; give the budget in epochs, steps or samples")
    if plan.total_steps == 0:
        raise InputError("the training has no step; give a budget and limit_train_batches of 1 or more")
    return plan.total_steps


def _power(optimizer: Optimizer, factor: float, times: int) -> float:
    """The factor of so many falls, or rises. Raises InputError where a rate is no number any more."""
    try:
        power = float(factor) ** times
    except OverflowError:
        power = math.inf
    if not _is_rate(optimizer, power):
        raise InputError(f"scheduler.factor={factor} makes the rate infinite after {times} times; make it smaller")
    return power


def _is_rate(optimizer: Optimizer, factor: float) -> bool:
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return all(math.isfinite(rate * factor) for rate in rates)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_part(name: str, value: object) -> None:
    if not _is_number(value) or not 0 <= value <= 1:  # pyright: ignore
        raise InputError(f"scheduler.{name}={value!r} is not a factor from 0 to 1")


def _check_above_zero(name: str, value: object) -> None:
    if not _is_number(value) or value <= 0:  # pyright: ignore
        raise InputError(f"scheduler.{name}={value!r} is not a number above 0")
