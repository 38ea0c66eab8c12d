"""An exponential moving average of the weights, whose length does not go by the batch size."""

from typing import Any

import lightning as L

from metronome.training.averaging.average import Average, plan_of
from metronome.units import Duration, InputError


class EMA(Average):
    """Keeps average <- average + (1 - 2^(-n/h)) (weights - average) after each step, n its samples of h.

    So weights that are `half_life` old count half as much as those of now, whatever the batch size, the accumulation
    and the number of devices; a decay d a step is a half-life of ln 2 / (1 - d) steps, and 0.999 of 693.

    Args:
        half_life: a duration: `2%` of the training, `1 epoch`, `500 steps`, `1e6 samples`. Steps weigh
            each step alike, the others by its samples.
        start: a duration; until it is over the training's own weights are validated and saved.

    Raises:
        InputError: for what is no such duration, or none at all.
    """

    def __init__(self, half_life: str | Duration = "2%", start: str | Duration = "0 steps") -> None:
        super().__init__()
        self.half_life, self.start = Duration.parse(half_life), Duration.parse(start)
        if not self.half_life.value:
            raise InputError(f"ema.half_life={half_life} averages nothing; give for example 2%, 1 epoch or 500 steps")
        self._first_step = 0
        self._per_step: float | None = None  # half-lives in a step; None: by its samples
        self._per_sample = 0.0
        self._samples_before = 0

    def on_train_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        length, plan = self.half_life, plan_of(trainer, "ema.half_life", self.half_life)
        start_plan = plan_of(trainer, "ema.start", self.start)
        self._first_step = int(self.start.value) if start_plan is None else start_plan.steps(self.start)
        self._per_step = 1 / float(length.value) if length.unit == "steps" else None
        if plan is not None and length.unit != "steps":
            whole = {"epochs": plan.num_samples, "samples": 1, "percent": (plan.total_samples or 0) / 100}
            self._per_sample = 1 / (float(length.value) * whole[length.unit])
        self._samples_before = trainer.counters.samples

    def after_step(self, trainer: Any, module: L.LightningModule) -> None:
        samples, self._samples_before = trainer.counters.samples - self._samples_before, trainer.counters.samples
        if trainer.global_step > self._first_step:
            half_lives = samples * self._per_sample if self._per_step is None else self._per_step
            self._mix(module, 1 - 0.5**half_lives)
