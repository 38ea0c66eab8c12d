"""A learning-rate range test: some steps, each at a larger rate, until the loss runs away; nothing of it stays."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import LBFGS, Rprop

from metronome.insight.rate_search.curve import Curve
from metronome.insight.rate_search.trial import Trial
from metronome.training import Trainer
from metronome.training.lightning_private import EndOfFit
from metronome.units import InputError

# A mean loss that is above the best by so many times that has run away.
_RUNAWAY = 4.0
_KEEP = 0.9  # of the running mean that is looked at, from step to step
_AT_LEAST = 10  # steps, before that is looked at


def search(trainer: Trainer, low: float = 1e-6, high: float = 10.0, steps: int = 100) -> Curve:
    """Try rates from `low` to `high` on the training's own steps, and put everything back (see `Trial`).

    To be called in `on_train_start` of a training that begins, on all devices. The rates are of the first parameter
    group; others keep their proportion to it. It ends early where the loss runs away. Source: Smith (2017), arXiv
    1506.01186.

    Args:
        trainer: of the training.
        low, high: the first and the last rate.
        steps: from one to the other.

    Raises:
        InputError: for an optimizer that does not go by its rate (L-BFGS, Rprop), and as `Trial`.
    """
    bases = base_rates(trainer)
    curve, best, mean = Curve(), math.inf, 0.0
    with Trial(trainer) as trial:
        for i in range(steps):
            rate = low * (high / low) ** (i / (steps - 1))
            put_rates(trainer, rate, bases)
            loss = trial.step()
            curve.diverged = not math.isfinite(loss)
            if curve.diverged:
                break
            curve.rates.append(rate)
            curve.losses.append(loss)
            mean = _KEEP * mean + (1 - _KEEP) * loss
            now = mean / (1 - _KEEP ** (i + 1))
            best = min(best, now)
            curve.diverged = i >= _AT_LEAST and now - best > _RUNAWAY * max(abs(best), 1e-12)
            if curve.diverged:
                break
    return curve


def base_rates(trainer: L.Trainer) -> list[float]:
    """The rate of each parameter group, before schedules and warm-ups. Raises InputError where none is searched for."""
    optimizer: Any = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
    if optimizer is None or isinstance(optimizer, LBFGS | Rprop):
        what = "several optimizers" if optimizer is None else type(optimizer).__name__
        raise InputError(f"a rate is searched for where one optimizer goes by it, and this training has {what}")
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def put_rates(trainer: L.Trainer, rate: float, bases: list[float]) -> None:
    """Give the first parameter group this rate, and the others in proportion."""
    for group, base in zip(trainer.optimizers[0].param_groups, bases, strict=True):
        scaled = rate * base / bases[0] if bases[0] else rate
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def search_alone(trainer: Trainer, module: L.LightningModule, data: Any, **options: Any) -> Curve:
    """The same where no training is under way: a fit is begun, and ends before its first step.

    Args:
        trainer, module, data: as for `trainer.fit`; a data module, or a loader.
        options: those of `search`.
    """
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore
    seeks = _Seeks(options)
    trainer.callbacks = [seeks]  # pyright: ignore
    try:
        trainer.fit(module, data)
    finally:
        trainer.callbacks = callbacks  # pyright: ignore
    assert seeks.curve is not None
    return seeks.curve


class _Seeks(Callback):
    curve: Curve | None = None

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        self.curve = search(trainer, **self.options)
        raise EndOfFit
