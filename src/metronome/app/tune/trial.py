"""A training of one batch size and one rate, until it has reached the target or has lost; it leaves nothing."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from metronome.app.config.build import build_job
from metronome.app.config.foreign import give_groups
from metronome.app.measure.process import Request, measured
from metronome.app.tune.search import crossing
from metronome.insight import NoiseScale
from metronome.insight.noise_scale.estimate import noise
from metronome.units import InputError
from metronome.units.step_times import StepTimes

_CONSTANT = {"_target_": "metronome.models.schedulers.constant", "_partial_": True, "warmup": "0 steps"}
_LEAST_EVALUATED = 64  # samples at once, however small the batch
CONFIRM = 3  # validations in a row that have the target: with small batches one is luck


@dataclass
class Curve:
    """What a training showed.

    Attributes:
        points: (step, value of the monitored metric), at each validation.
        noise_scale: in samples, over all of it; None where it was not measured.
        ended: as it was asked to, and not by a value that is not finite.
    """

    points: list[tuple[int, float]] = field(default_factory=list)
    noise_scale: float | None = None


class Goal(Callback):
    """Keeps the monitored metric of each validation, and ends the training where it has the target, or nothing finite.

    Args:
        monitor: the metric.
        target: its value; None to go on to the end.
        sign: 1 where low values are good, or -1.
    """

    def __init__(self, monitor: str, target: float | None, sign: int) -> None:
        self.monitor, self.target, self.sign = monitor, target, sign
        self.curve = Curve()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            logged = ", ".join(sorted(map(str, trainer.callback_metrics))) or "nothing"
            raise InputError(f"tune goes by {self.monitor}, and what the validation logs is: {logged}")
        number = float(value)
        if not math.isfinite(number):
            trainer.should_stop = True
            return
        self.curve.points.append((trainer.global_step, number))
        if self.target is not None and crossing(self.curve.points, self.target, self.sign, CONFIRM) is not None:
            trainer.should_stop = True


@dataclass(frozen=True)
class Trials:
    """Makes trainings of a configuration.

    Args:
        config: the whole one.
        overrides: what was typed.
        monitor, sign: the metric, and 1 where low values are good, or -1.
        batch_key, rate_key: what of the configuration is set.
    """

    config: DictConfig
    overrides: list[str]
    monitor: str
    sign: int
    batch_key: str
    rate_key: str

    def settings(self, size: int, rate: float | None, seed: int, steps: int, every: int) -> dict[str, Any]:
        """The configuration for a batch size and a rate, at that rate from the first step to the last, without
        anything that is written or shown."""
        config: Any = self.config.copy()
        OmegaConf.update(config, self.batch_key, size)
        if rate is not None:
            OmegaConf.update(config, self.rate_key, rate)
        config.seed, config.budget, config.test = seed, f"{steps} steps", False
        for group, key, value in (
            ("data", "batch_growth", None),
            ("data", "eval_batch_size", max(_LEAST_EVALUATED, self.own_size or 0)),
            ("optimizer", "scale_lr", "none"),
        ):
            part = config.get(group)
            if part is not None and key in part and not (key == "eval_batch_size" and part[key] is not None):
                OmegaConf.update(config, f"{group}.{key}", value)
        if not self.is_constant:
            config.scheduler = _CONSTANT
        settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        # What is set here nobody has typed.
        give_groups(settings, OmegaConf.to_container(self.config, resolve=False), self.overrides)  # pyright: ignore
        settings |= {"callbacks": {}, "logger": {}}
        for name in ("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps"):
            settings["trainer"].pop(name, None)
        settings["trainer"] |= {
            "val_check_interval": every,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "on_nonfinite": "ignore",
            "enable_model_summary": False,
            "log_every_n_steps": 50,
        }
        return settings

    def check_keys(self) -> None:
        """Raises InputError if the rate or the batch size is set in vain: the module, or the data, take none."""
        one, other = (self.settings(size, size / 8, 0, 1, 1) for size in (1, 2))
        for group, key, option in (("model", self.rate_key, "rate_key"), ("data", self.batch_key, "batch_key")):
            if one[group] == other[group]:
                target = one[group].get("_target_")
                own = "; give its __init__ a parameter named optimizer, or" if group == "model" else ";"
                raise InputError(f"tune sets {key}, and {target} takes it not{own} name the key it takes: {option}=...")

    @property
    def own_size(self) -> int | None:
        """The batch size as it is configured; None for the full set."""
        size = OmegaConf.select(self.config, self.batch_key)
        return size if isinstance(size, int) else None

    @property
    def is_constant(self) -> bool:
        """Whether the rate stays by itself."""
        target = OmegaConf.select(self.config, "scheduler._target_")
        return target is None or target == _CONSTANT["_target_"]

    def curve(
        self, size: int, rate: float, seed: int, steps: int, every: int, target: float | None, noisy: bool = False
    ) -> Curve:
        """Train, validating every so many steps.

        Args:
            noisy: whether the noise scale is measured, at each step.
        """
        goal = Goal(self.monitor, target, self.sign)
        instrument = NoiseScale(every=1, over=max(steps, 2))
        with _quiet():
            settings = self.settings(size, rate, seed, steps, every)
            job = build_job(settings, [], [goal, *([instrument] if noisy else [])])
            job.trainer.fit(job.model, datamodule=job.data)
        if noisy:
            sums = instrument.state_dict()["sums"]
            goal.curve.noise_scale = noise(sums).get("noise/scale") if sums else None
        return goal.curve

    def step_times(self, size: int, seed: int, seconds: float) -> tuple[StepTimes | None, float | None]:
        """Of steps with a batch size, for so long, and the seconds of a validation."""
        with _quiet():
            settings = self.settings(size, None, seed, steps=10**9, every=10**9)
            found = measured(Request(settings, [], seconds))
        return found["times"], found["validation"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Around trainings of which there are many: what each has to say was for one."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("metronome", "metronome.training", "metronome.noise_scale")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        for logger, kept in zip(loggers, before, strict=True):
            logger.setLevel(kept)
