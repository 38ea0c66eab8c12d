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

# A loss that is this much worse than the best, measured by how far it has come down, has run away.
_RUNAWAY = 4.0
_KEEP = 0.9  # of the running mean that is looked at for that
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
    optimizer: Any = trainer.optimizers[0]
    if isinstance(optimizer, LBFGS | Rprop):
        raise InputError(f"{type(optimizer).__name__} finds its steps itself, and there is no rate to search for")
    bases = base_rates(trainer)
    curve, best, mean, first = Curve(), math.inf, 0.0, math.nan
    with Trial(trainer) as trial:
        for i in range(steps):
            rate = low * (high / low) ** (i / (steps - 1))
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                _put_rate(group, rate * base / bases[0])
            loss = trial.step()
            curve.diverged = not math.isfinite(loss)
            if curve.diverged:
                break
            curve.rates.append(rate)
            curve.losses.append(loss)
            mean = _KEEP * mean + (1 - _KEEP) * loss
            now = mean / (1 - _KEEP ** (i + 1))
            first, best = (now if i == _AT_LEAST - 1 else first), min(best, now)
            curve.diverged = i >= _AT_LEAST and now - best > _RUNAWAY * max(abs(best), 1e-12)
            if curve.diverged:
                break
    return curve


def base_rates(trainer: L.Trainer) -> list[float]:
    """The rate of each parameter group, before schedules and warm-ups."""
    return [float(group.get("initial_lr", group["lr"])) for group in trainer.optimizers[0].param_groups]


def _put_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def search_alone(
    trainer: Trainer, module: L.LightningModule, data: L.LightningDataModule | Any, **options: Any
) -> Curve:
    """The same where no training is under way: a fit is begun, and ends before its first step.

    Args:
        trainer, module, data: as for `trainer.fit`; a data module, or a loader.
        options: those of `search`.
    """
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore
    seeks = _Seeks(options)
    trainer.callbacks = [seeks]  # pyright: ignore
    try:
        is_module = isinstance(data, L.LightningDataModule)
        trainer.fit(module, **({"datamodule": data} if is_module else {"train_dataloaders": data}))
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
