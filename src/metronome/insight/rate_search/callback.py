"""Before the first step: the learning rate that this training would do well with."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from metronome.insight.instruments.log_points import GROUP
from metronome.insight.rate_search.curve import Curve, lowest, suggest
from metronome.insight.rate_search.picture import pixels, rate_picture, save
from metronome.insight.rate_search.search import base_rates, search
from metronome.insight.rate_search.taking import take
from metronome.insight.rate_search.trials import Tried, best_rate, try_rates
from metronome.training import Trainer
from metronome.units import InputError, check_number

log = logging.getLogger("metronome.rate")

_TRIAL_STEPS = 50, 200  # at least, at most; in between a tenth of the training
_STEPS_OF_UNKNOWN = 100


class LRFinder(Callback):
    """Looks for a learning rate on steps of which nothing stays, says it, and draws `lr_finder.png`.

    First a range test (Smith 2017, arXiv 1506.01186): `steps` steps, the rate growing from `low` to `high`, ended where
    the loss runs away. It tells where to look. Then `trial_steps` steps at each of a few rates around, three times each
    other, from the same weights with the same batches; the best of them, with its neighbours, gives the rate. It is the
    peak of a schedule. The training goes on as if nothing had been done, with the rate that it was given, unless
    `take`.

    Args:
        folder: of the run, for the picture; None: no picture.
        take: whether to train with what was found.
        low, high, steps: of the range test.
        trial_steps: at each rate; None: a tenth of the training, from 50 to 200; 0: a quarter of the rate with the
            lowest loss of the range test is taken for good.
        configured: `optimizer.lr` as it was given, for the flag that is said; None: it is that of the first group.

    Raises:
        InputError: for a range that is none, an optimizer that finds its steps itself, several of them, and what no
            step can be tried with (`Trial`).
    """

    def __init__(
        self,
        folder: str | None = None,
        take: bool = False,
        low: float = 1e-6,
        high: float = 10.0,
        steps: int = 100,
        trial_steps: int | None = None,
        configured: float | None = None,
    ) -> None:
        if not 0 < low < high:
            raise InputError(f"lr_finder.low={low} and high={high} are no range; give for example 1e-6 and 10")
        check_number("callbacks.lr_finder.steps", steps, "steps")
        if steps < 20:
            raise InputError(f"lr_finder.steps={steps} are too few to tell; use at least 20")
        if trial_steps:
            check_number("callbacks.lr_finder.trial_steps", trial_steps, "steps")
        self.folder, self.take, self.configured = None if folder is None else Path(folder), take, configured
        self.low, self.high, self.steps, self.trial_steps = low, high, steps, trial_steps
        self.curve: Curve | None = None
        self.tried: Sequence[Tried] = ()
        self.rate: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rate = state_dict["rate"]

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        # First of all: what it takes is nobody else's time.
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(trainer, Trainer):
            raise InputError("LRFinder makes steps of metronome.training.Trainer, and this is another")
        if trainer.global_step or trainer.fast_dev_run:  # pyright: ignore
            return  # it was found before the first step
        base = base_rates(trainer)[0]
        self.curve = search(trainer, self.low, self.high, self.steps)
        self.rate, at, made = suggest(self.curve), lowest(self.curve), len(self.curve.rates)
        per_rate = self._trial_steps(trainer)
        if self.rate is not None and per_rate:
            self.tried = try_rates(trainer, self.rate, per_rate)
            self.rate, made = best_rate(list(self.tried)), made + per_rate * len(self.tried)
        if trainer.is_global_zero:
            self._show(trainer, base)
            for line in self._lines(base, at, per_rate, made):
                log.info(line)
        if self.take and self.rate is not None:
            take(trainer, self.rate / base)

    def _trial_steps(self, trainer: Trainer) -> int:
        if self.trial_steps is not None:
            return self.trial_steps
        plan, (least, most) = trainer.plan, _TRIAL_STEPS
        steps = None if plan is None else plan.total_steps
        return _STEPS_OF_UNKNOWN if steps is None else max(least, min(most, steps // 10))

    def _lines(self, base: float, at: float | None, per_rate: int, made: int) -> list[str]:
        if self.rate is None:
            why = "the loss fell at none" if at is None else "the loss ran away at all that were tried"
            return [
                f"rate       none found from {self.low:g} to {self.high:g}: {why}",
                "           look at data and loss, or elsewhere: callbacks.lr_finder.low, high",
            ]
        # scale_lr and the like stand between what is typed and the rate of the first group.
        given = self.rate if self.configured is None or not base else self.rate * self.configured / base
        how = f"best of {len(self.tried)} rates, {per_rate} steps each; " if self.tried else ""
        does = "taken for this run; to keep it" if self.take else f"this run keeps {base:.3g}; to have it"
        return [
            f"rate       {self.rate:g}: {how}range test lowest at {at:.2g}",
            f"           {does}: optimizer.lr={given:.3g}  ({made:,} steps)",
        ]

    def _show(self, trainer: Trainer, base: float) -> None:
        assert self.curve is not None
        if not self.curve.rates:
            return
        figure = rate_picture(self.curve, self.tried, self.rate, base)
        if self.folder is not None:
            save(figure, self.folder / "lr_finder.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"{GROUP}/lr_finder", pixels(figure), 0, dataformats="HWC")
