"""A rate and a batch size for this model on this machine: measured steps, short trainings, a law between them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metronome.app.console import output
from metronome.app.plan import counted
from metronome.app.sweeps.direction import mode_of
from metronome.app.tune.kept import write
from metronome.app.tune.search import Tuner, candidates, crossing, seconds_between
from metronome.app.tune.text import Tuned, choice_lines, first_lines, table_lines, trial_line
from metronome.app.tune.trial import CONFIRM, Trials
from metronome.units import InputError, Plan, check_number

_SECONDS, _ROUNDS = 0.2, 3  # of steps measured at each size, and how often
_SLOWEST = 5.0  # seconds a step: larger batches are not tried
_PART = 4  # of the configured training, where no target is given: what it reaches in a quarter
_LOOKS = 30  # validations on the way to the target
_OWN = ("target", "sizes", "seeds", "trials", "batch_key", "rate_key")

Say = Callable[[str], None]


def tune(config: DictConfig, overrides: list[str], say: Say) -> Tuned:
    """Find, say, and keep what was found."""
    found = find(config, overrides, say)
    say("\n".join(["", *table_lines(found), "", *choice_lines(found), f"kept       {write(found)}"]))
    return found


def find(config: DictConfig, overrides: list[str], say: Say, seconds: Callable[[int], float] | None = None) -> Tuned:
    """A rate and a batch size.

    Args:
        config: the whole configuration, with what conf/tune.yaml has.
        overrides: what was typed.
        say: told of each training.
        seconds: a step, by batch size; None: as measured here.

    Raises:
        InputError: for a configuration whose batch size and rate cannot be set, or without a metric to go by; where no
            training came to the target.
    """
    output.quiet()
    trials = _trials(config, overrides)
    check_number("seeds", config.seeds, "seeds")
    check_number("trials", config.trials, "trainings")
    target = config.target
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
        raise InputError(f"target={target} is not a value of {trials.monitor}; give a number, e.g. target=0.3")
    plan = counted(config, overrides)
    if plan.total_steps is None or plan.total_samples is None:
        raise InputError("tune needs to know how long a training may be; give a budget in epochs, steps or samples")

    # 1. What may be chosen, and what a step of it takes.
    own, rate = plan.batch_size, float(OmegaConf.select(config, trials.rate_key))
    sizes = candidates(plan.num_samples, own) if config.sizes is None else _given(config.sizes, plan)
    own = min(sizes, key=lambda size: abs(math.log(size / own)))
    if seconds is None:
        step_seconds, validation = _measure_steps(trials, sizes, own, config.seed)
    else:
        step_seconds, validation = {size: seconds(size) for size in sizes}, 0.0
    sizes = [size for size in sizes if size <= max(step_seconds)]
    say(first_lines(trials, own, rate, step_seconds, validation, plan.total_steps))

    # 2. The target: what the configured training comes to in a quarter of its steps, at the best of some rates.
    noise_scale, steps = None, plan.total_steps
    if target is None:
        steps = max(plan.total_steps // _PART, 2 * CONFIRM)
        target, rate, noise_scale = _reachable(trials, own, rate, config.seed, steps, say)

    # 3. Trainings to it.
    trained = _ToTarget(trials, float(target), steps * own, noise_scale, say)
    # However large, as many steps as the configured training; however small, as many samples.
    whole = plan.total_steps
    most = lambda size: float(whole * max(1.0, own / size))  # noqa: E731
    seeds = [config.seed + i for i in range(config.seeds)]
    of = seconds or seconds_between(step_seconds)
    tuner = trained.tuner = Tuner(trained, of, sizes, seeds, most, config.trials)
    tuner.tune(own, rate, lambda: trained.noise_scale)
    if not tuner.best:
        raise InputError(
            f"no training came to {trials.monitor} {target:g}; give another target, a longer budget, or another "
            f"{trials.rate_key} to begin with"
        )
    typed = [o for o in overrides if o.lstrip("+").split("=")[0] not in _OWN]
    return Tuned(tuner, float(target), trained.noise_scale, step_seconds, typed, trials)


@dataclass
class _ToTarget:
    """A training to the target, as `Tuner` asks for it.

    Args:
        trials: makes it.
        target: of the monitored metric.
        samples: that it is expected to take, while nothing better is known.
        noise_scale: in samples; the first training measures it where it is not known.
        say: told of each.
    """

    trials: Trials
    target: float
    samples: float
    noise_scale: float | None
    say: Say
    tuner: Tuner | None = None

    def __call__(self, size: int, rate: float, seed: int, cap: float) -> float | None:
        assert self.tuner is not None
        expected = self.tuner.steps_of(size) if self.tuner.best else self.samples / size
        every = max(1, round(min(expected, cap) / _LOOKS))
        limit = math.ceil(cap) + (CONFIRM - 1) * every  # the end must be confirmed, too
        noisy = self.noise_scale is None and size > 1
        curve = self.trials.curve(size, rate, seed, limit, every, self.target, noisy)
        if noisy:
            self.noise_scale = curve.noise_scale
        taken = crossing(curve.points, self.target, self.trials.sign, CONFIRM)
        taken = None if taken is None or taken > cap else max(taken, 1.0)
        if taken is not None:
            self.samples = min(self.samples, taken * size)
        self.say(trial_line(size, rate, seed, taken, curve.points, self.trials.monitor))
        return taken


def _trials(config: DictConfig, overrides: list[str]) -> Trials:
    """What makes the trainings. Raises InputError where nothing is to be set, or to go by."""
    checkpoint = OmegaConf.select(config, "callbacks.checkpoint") or {}
    monitor = OmegaConf.select(config, "monitor") or checkpoint.get("monitor") or "val/loss"
    for key, what, option in (
        (config.batch_key, "the samples of a batch", "batch_key=data.mine"),
        (config.rate_key, "the rate", "rate_key=model.lr"),
    ):
        if OmegaConf.select(config, key) is None:
            raise InputError(f"tune sets {what}, and the configuration has no {key}; name its key: {option}")
    rate = OmegaConf.select(config, config.rate_key)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
        raise InputError(f"{config.rate_key}={rate} is no rate to begin with; give a number above 0")
    if config.trainer.get("devices") != 1:
        raise InputError("tune trains on one device; use trainer.devices=1, which changes no result")
    sign = -1 if mode_of(config, monitor) == "max" else 1
    trials = Trials(config, overrides, monitor, sign, config.batch_key, config.rate_key)
    trials.check_keys()
    return trials


def _given(sizes: Any, plan: Plan) -> list[int]:
    given = OmegaConf.to_container(sizes) if OmegaConf.is_config(sizes) else sizes
    if not isinstance(given, list) or not given:
        raise InputError(f"sizes={given} is no list of batch sizes, as in sizes=[16,64,256]")
    for size in given:
        if check_number("sizes", size, "samples") and size > plan.num_samples:
            raise InputError(f"sizes={size} is more than the {plan.num_samples:,} training samples")
    return sorted(set(given))


def _measure_steps(trials: Trials, sizes: list[int], own: int, seed: int) -> tuple[dict[int, float], float]:
    """Seconds a step by batch size, from the smallest up, until steps are too slow; and those of a validation."""
    chosen = [size for i, size in enumerate(sizes) if i % 2 == 0 or size in (own, sizes[-1])]
    found: dict[int, float] = {}
    validation = 0.0
    for _ in range(_ROUNDS):  # a noisy moment falls on one of them
        for size in chosen:
            if found.get(max((s for s in found if s < size), default=0), 0.0) > _SLOWEST:
                break
            times, took = trials.step_times(size, seed, _SECONDS)
            if times is not None:
                found[size] = min(found.get(size, math.inf), times.low)
                validation = took or validation
    # A larger batch takes no less: what took longer than one was disturbed.
    return {size: min(found[s] for s in found if s >= size) for size in found}, validation


def _reachable(
    trials: Trials, size: int, rate: float, seed: int, steps: int, say: Say
) -> tuple[float, float, float | None]:
    """What so many steps come to at the best of some rates, that rate, and the noise scale."""
    every = max(1, steps // _LOOKS)
    found: dict[float, float] = {}
    noise_scale: float | None = None

    def ask(rate: float) -> float:
        nonlocal noise_scale
        curve = trials.curve(size, rate, seed, steps, every, None, noisy=noise_scale is None)
        noise_scale = noise_scale or curve.noise_scale
        last = sorted(value for _, value in curve.points[-CONFIRM:])
        is_whole = len(curve.points) >= steps // every
        found[rate] = last[len(last) // 2] if is_whole and last else trials.sign * math.inf
        say(f"search     {trials.rate_key} {rate:<8.3g} {trials.monitor} {found[rate]:.4g} after {steps:,} steps")
        return trials.sign * found[rate]

    best = ask(rate)
    for factor in (4.0, 0.25):
        while rate * factor not in found and (value := ask(rate * factor)) < best:
            rate, best = rate * factor, value
    if not math.isfinite(best):
        raise InputError(f"{trials.monitor} is not finite with rates around {rate:g}; give another {trials.rate_key}")
    return reached(found[rate], trials.sign), rate, noise_scale


def reached(value: float, sign: int) -> float:
    """To three digits, and no better than the value: a training that has it has this.

    Args:
        sign: 1 where low values are good, or -1.

    >>> reached(0.95294, -1), reached(0.95294, 1), reached(0.30219, 1), reached(0.0, 1)
    (0.952, 0.953, 0.303, 0.0)
    """
    near = float(f"{value:.3g}")
    if sign * near >= sign * value:
        return near
    return float(f"{near + sign * 10.0 ** (math.floor(math.log10(abs(value))) - 2):.3g}")
