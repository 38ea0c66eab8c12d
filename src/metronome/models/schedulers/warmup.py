"""The warm-up: the rate rises linearly at the start of the run."""

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metronome.models.schedulers.durations import steps_of
from metronome.units import Duration, InputError, Plan


def warmed_up(
    optimizer: Optimizer, plan: Plan | None, warmup: str | Duration, factor: Callable[[int], float]
) -> LambdaLR:
    """The schedule of a factor at each step, times the rise."""
    rises = rise(plan, warmup)
    return LambdaLR(optimizer, lambda step: rises(step) * factor(step))


def rise(plan: Plan | None, warmup: str | Duration) -> Callable[[int], float]:
    """The part of the rate that a warm-up allows at a step. Raises InputError if it takes the whole run."""
    steps = steps_of_warmup(plan, warmup)
    return lambda step: (step + 1) / (steps + 1) if step < steps else 1.0


def steps_of_warmup(plan: Plan | None, warmup: str | Duration) -> int:
    """A warm-up in steps. Raises InputError if the run has no step left after it."""
    steps, total_steps = steps_of(plan, "warmup", warmup), None if plan is None else plan.total_steps
    if total_steps and steps >= total_steps:
        raise InputError(f"scheduler.warmup={warmup} is {steps} steps, and the run has {total_steps}; make it shorter")
    return steps
