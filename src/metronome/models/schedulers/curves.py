"""Schedules along a curve that ends with the run."""

import math
from collections.abc import Callable
from fractions import Fraction

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metronome.models.schedulers.checks import check_above_zero, check_part, is_rate
from metronome.models.schedulers.durations import total_steps_of
from metronome.models.schedulers.warmup import steps_of_warmup, warmed_up
from metronome.units import Duration, InputError, Plan

# The part of the rate that is left, from 1 to 0, after a part of the decay, from 0 to 1.
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda part: 1 - part,
    "sqrt": lambda part: 1 - math.sqrt(part),
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
}


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
    total_steps = total_steps_of("cosine", plan)
    check_part("final", final)
    warmup_steps = steps_of_warmup(plan, warmup)

    def fall(step: int) -> float:
        part = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
        return final + (1 - final) * _SHAPES["cosine"](min(1.0, max(0.0, part)))

    return warmed_up(optimizer, plan, warmup, fall)


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
    total_steps = total_steps_of("wsd", plan)
    check_part("final", final)
    if shape not in _SHAPES:
        raise InputError(f"scheduler.shape={shape} is not known; there are: {', '.join(_SHAPES)}")
    warmup_steps, decay_steps = steps_of_warmup(plan, warmup), plan.steps(decay)
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

    return warmed_up(optimizer, plan, warmup, fall)


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
    total_steps = total_steps_of("onecycle", plan)
    check_above_zero("div_factor", div_factor)
    check_above_zero("final_div_factor", final_div_factor)
    length = Duration.parse(warmup)
    if length.unit == "percent" and length.value < 100:
        rise_steps = float(total_steps * Fraction(length.value) / 100)
    else:
        rise_steps = steps_of_warmup(plan, length)
    first, peak = 1 / div_factor, rise_steps - 1
    last = first / final_div_factor
    for name, value, factor_there in (("div_factor", div_factor, first), ("final_div_factor", final_div_factor, last)):
        if not is_rate(optimizer, factor_there):
            raise InputError(f"scheduler.{name}={value} makes the rate infinite; 1 or more is usual")

    def factor(step: int) -> float:
        if step <= peak:
            return 1 + (first - 1) * _SHAPES["cosine"](step / peak if peak else 1.0)
        part = (step - peak) / (total_steps - 1 - peak)
        return last + (1 - last) * _SHAPES["cosine"](min(1.0, part))

    return LambdaLR(optimizer, factor)
