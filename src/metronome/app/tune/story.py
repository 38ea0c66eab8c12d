"""A rate and a batch size for this model on this machine: measured steps, short trainings, a law between them."""

import math
import time
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metronome.app.console import output
from metronome.app.plan import counted
from metronome.app.tune.kept import write
from metronome.app.tune.search import Tuner, candidates, crossing, seconds_between
from metronome.app.tune.text import Tuned, choice_lines, first_lines, table_lines
from metronome.app.tune.trial import CONFIRM, Trials
from metronome.units import InputError, check_number
from metronome.units.amounts import digits

_SECONDS, _ROUNDS = 0.2, 3  # of steps measured at each size, and how often
_SLOWEST = 5.0  # seconds a step: larger batches are not tried
_PART = 4  # of the configured training, where no target is given: what it reaches in a quarter
_LOOKS = 30  # validations on the way to the target


def tune(config: DictConfig, overrides: list[str], say: Callable[[str], None] = print) -> Tuned:
    """Find, say, and keep what was found."""
    found = find(config, overrides, say)
    say("\n".join(["", *table_lines(found), "", *choice_lines(found)]))
    say(f"kept       {write(found)}")
    return found


def find(
    config: DictConfig, overrides: list[str], say: Callable[[str], None], seconds: Callable[[int], float] | None = None
) -> Tuned:
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
    began = time.monotonic()
    trials, typed = _trials(config, overrides)
    seeds = [config.seed + i for i in range(check_number("seeds", config.seeds, "seeds") and config.seeds)]
    planned = counted(config, overrides)
    if planned.total_steps is None:
        raise InputError("tune needs to know how long a training may be; give a budget in epochs, steps or samples")
    own_size, rate = planned.batch_size, float(OmegaConf.select(config, trials.rate_key))

    sizes = candidates(planned.num_samples, own_size)
    if config.sizes is not None:
        sizes = _given_sizes(config.sizes, planned.num_samples)
        own_size = min(sizes, key=lambda size: abs(math.log(size / own_size)))
    if seconds is not None:
        step_seconds, validation = {size: seconds(size) for size in sizes}, 0.0
    else:
        step_seconds, validation = _measure_steps(trials, sizes, own_size, config.seed)
    sizes = [size for size in sizes if size <= max(step_seconds)]
    say(first_lines(trials, own_size, rate, step_seconds, validation))

    # Without a target: what the training as it is configured comes to in a quarter of its steps, at the best rate.
    total = planned.total_samples or planned.total_steps * own_size
    steps = max(math.ceil(total / own_size / (1 if config.target is not None else _PART)), 2 * CONFIRM)
    target, noise_scale = config.target, None
    if target is None:
        target, rate, noise_scale = _reachable(trials, own_size, rate, config.seed, steps, say)
    elif isinstance(target, bool) or not isinstance(target, int | float):
        raise InputError(f"target={target} is not a value of {trials.monitor}")

    expected: dict[str, float] = {"samples": steps * own_size}
    found_noise = [noise_scale]

    def train(size: int, rate: float, seed: int, cap: float) -> float | None:
        reached = tuner_steps(size)
        every = max(1, round(min(reached, cap) / _LOOKS))
        noisy = found_noise[0] is None and size > 1
        # The end must be confirmed, too.
        limit = math.ceil(cap) + (CONFIRM - 1) * every
        curve = trials.curve(size, rate, seed, limit, every, target, noisy)
        if noisy:
            found_noise[0] = curve.noise_scale
        taken = crossing(curve.points, target, trials.sign, CONFIRM)
        taken = None if taken is None or taken > cap else max(taken, 1.0)
        say(_line(len(tuner.steps), size, rate, seed, taken, curve.points, trials.monitor))
        if taken is not None:
            expected["samples"] = min(expected["samples"], taken * size)
        return taken

    tuner = Tuner(
        train, seconds or seconds_between(step_seconds), sizes, seeds, lambda size: 1.0 * max(total / size, total / own_size),
        check_number("trials", config.trials, "trainings") and config.trials,
    )  # fmt: skip

    def tuner_steps(size: int) -> float:
        """Steps that a training is expected to take: as many as were found, or those of as many samples."""
        return tuner.steps_of(size) if tuner.best else min(steps, max(expected["samples"] / size, 2 * CONFIRM))

    tuner.tune(own_size, rate, noise_scale)
    if not tuner.best:
        raise InputError(
            f"no training came to {trials.monitor} {target:g} in {steps:,} steps; give another target, a longer budget, "
            f"or another {trials.rate_key} to begin with"
        )
    return Tuned(
        tuner, float(target), trials.monitor, trials.sign, found_noise[0], step_seconds, time.monotonic() - began, typed,
        trials,
    )  # fmt: skip


def _trials(config: DictConfig, overrides: list[str]) -> tuple[Trials, list[str]]:
    """What makes the trainings, and what was typed of them."""
    own = ("target", "sizes", "seeds", "trials", "batch_key", "rate_key")
    typed = [o for o in overrides if o.lstrip("+").split("=")[0] not in own]
    checkpoint = OmegaConf.select(config, "callbacks.checkpoint") or {}
    monitor = OmegaConf.select(config, "monitor") or checkpoint.get("monitor") or "val/loss"
    sign = -1 if checkpoint.get("mode") == "max" else 1
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
    return Trials(config, overrides, monitor, sign, config.batch_key, config.rate_key), typed


def _given_sizes(sizes: Any, num_samples: int) -> list[int]:
    given = OmegaConf.to_container(sizes) if OmegaConf.is_config(sizes) else sizes
    if not isinstance(given, list) or not given:
        raise InputError(f"sizes={given} is no list of batch sizes, as in sizes=[16,64,256]")
    for size in given:
        if check_number("sizes", size, "samples") and size > num_samples:
            raise InputError(f"sizes={size} is more than the {num_samples:,} training samples")
    return sorted(set(given))


def _measure_steps(trials: Trials, sizes: list[int], own: int, seed: int) -> tuple[dict[int, float], float]:
    """Seconds a step by batch size, from the smallest up, until steps are too slow; and those of a validation."""
    chosen = [size for i, size in enumerate(sizes) if i % 2 == 0 or size in (own, sizes[-1])]
    found: dict[int, float] = {}
    validation = 0.0
    for _ in range(_ROUNDS):  # a noisy moment falls on one of them
        for size in chosen:
            if found and size > min(found) and found.get(max(s for s in found if s <= size), 0) > _SLOWEST:
                break
            times, took = trials.step_times(size, seed, _SECONDS)
            if times is not None:
                found[size] = min(found.get(size, math.inf), times.low)
                validation = took or validation
    # A larger batch takes no less: what took longer than one was disturbed.
    return {size: min(found[s] for s in found if s >= size) for size in found}, validation


def _reachable(
    trials: Trials, size: int, rate: float, seed: int, steps: int, say: Callable[[str], None]
) -> tuple[float, float, float | None]:
    """What so many steps come to at the best of some rates, that rate, and the noise scale."""
    every = max(1, steps // _LOOKS)
    found: dict[float, float] = {}
    noise_scale = None

    def ask(rate: float) -> float:
        nonlocal noise_scale
        curve = trials.curve(size, rate, seed, steps, every, None, noisy=noise_scale is None)
        noise_scale = noise_scale or curve.noise_scale
        last = sorted(value for _, value in curve.points[-CONFIRM:])
        whole = len(curve.points) >= steps // every
        found[rate] = last[len(last) // 2] if whole and last else trials.sign * math.inf
        say(f"search     rate {rate:<8.3g} {trials.monitor} {found[rate]:.4g} after {steps:,} steps")
        return trials.sign * found[rate]

    best = ask(rate)
    for factor in (4.0, 0.25):
        while found.get(rate * factor) is None and (value := ask(rate * factor)) < best:
            rate, best = rate * factor, value
    if not math.isfinite(best):
        raise InputError(f"{trials.monitor} is not finite with rates around {rate:g}; give another {trials.rate_key}")
    return float(f"{found[rate]:.3g}"), rate, noise_scale


def _line(number: int, size: int, rate: float, seed: int, taken: float | None, points: Any, monitor: str) -> str:
    came = f"{taken:,.0f} steps" if taken is not None else "not there"
    last = f" ({monitor} {points[-1][1]:.3g} after {points[-1][0]:,})" if taken is None and points else ""
    return f"trial      batch {size:<6,} rate {digits(rate, 2):<7} seed {seed:<2} {came}{last}"
