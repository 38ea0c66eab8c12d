"""Learning-rate schedules over a whole run. Each is called with the optimizer and, by the model, the run's plan."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from metronome.units import Duration, InputError, Plan


def cosine(optimizer: Optimizer, plan: Plan, warmup: str | Duration = "0 steps", final: float = 0.0) -> LambdaLR:
    """Rise linearly over the warm-up, then fall along half a cosine to `final` times the rate at the last step.

    Source: Loshchilov & Hutter (2017), arXiv 1608.03983, without restarts; warm-up as in Goyal et al. (2017),
    arXiv 1706.02677.

    Args:
        optimizer: its `lr` is the rate after the warm-up.
        plan: the run's plan.
        warmup: a duration: `500 steps`, `2 epochs`, `5%`.
        final: the factor reached at the end, from 0 to 1.

    Raises:
        InputError: if the plan has no end, or the warm-up takes all of it.
    """
    if plan.total_steps is None:
        raise InputError("scheduler=cosine must know the end; give the budget in epochs, steps or samples")
    if not isinstance(final, int | float) or not 0 <= final <= 1:
        raise InputError(f"scheduler.final={final!r} is not a factor from 0 to 1")
    total_steps, warmup_steps = plan.total_steps, plan.steps(Duration.parse(warmup))
    if warmup_steps >= total_steps:
        raise InputError(
            f"scheduler.warmup={warmup} is {warmup_steps} steps, and the run has {total_steps}; make it shorter"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        # The last update of the run, number total_steps - 1, is made at the final rate.
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer) -> LambdaLR:
    """Keep the rate as it is."""
    return LambdaLR(optimizer, lambda step: 1.0)
