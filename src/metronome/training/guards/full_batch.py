"""Full batch, mini-batch, single samples: which optimizers bear which."""

import logging

import lightning as L
from torch.optim import LBFGS, Optimizer, Rprop

from metronome.units import Plan

log = logging.getLogger("metronome")

# Riedmiller & Braun (1993), ICNN 586-591; the example of why it needs the full batch is Hinton's (2012), lecture 6e.
# What L-BFGS lacks there: Bollapragada et al. (2018), arXiv 1802.05374.
_NEED_THE_FULL_BATCH: dict[type[Optimizer], str] = {
    Rprop: "takes only the sign of each gradient: in mini-batches nine gradients of +0.01 and one of -0.09 do not "
    "cancel, and it goes nine steps one way and at most one back",
    LBFGS: "takes the curvature from differences of gradients: from one mini-batch to the next these are noise",
}


def warn_of_mini_batches(trainer: L.Trainer, plan: Plan | None) -> None:
    """Say once, on the first process, that an optimizer made for the full batch will see less. The run goes on."""
    if not trainer.is_global_zero:
        return
    for kind, reason in _NEED_THE_FULL_BATCH.items():
        if any(isinstance(optimizer, kind) for optimizer in trainer.optimizers) and _takes_mini_batches(trainer, plan):
            log.warning("%s %s; use data.batch_size=full or optimizer=momentum", kind.__name__, reason)


def _takes_mini_batches(trainer: L.Trainer, plan: Plan | None) -> bool:
    if plan is None:  # of such data it is known only how many batches an epoch has
        return trainer.num_training_batches > 1
    # Where only time ends the run, the plan lists its first epoch alone, and any that follows may be reached.
    epochs = plan.per_epoch if plan.total_steps is not None else (epoch for epoch, _ in plan.series.stretches())
    return any(epoch.batch_size < plan.num_samples for epoch in epochs)
