"""What was found, for a terminal: before, as a table, and as flags to copy."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from metronome.app.tune.search import Tuner, predicted_rate
from metronome.app.tune.trial import Trials
from metronome.units.amounts import digits, seconds_text


@dataclass
class Tuned:
    """What was found.

    Attributes:
        tuner: the trainings and what follows from them.
        target: what they were to reach.
        noise_scale: of the first training; None where it cannot be measured.
        step_seconds: by batch size, as measured.
        overrides: what was typed, without what is tune's own.
        trials: what made the trainings.
    """

    tuner: Tuner
    target: float
    noise_scale: float | None
    step_seconds: dict[int, float]
    overrides: list[str]
    trials: Trials


def first_lines(
    trials: Trials, size: int, rate: float, step_seconds: Mapping[int, float], validation: float, steps: int
) -> str:
    """What is begun with."""
    lines = [f"begins     batch {size:,}, {trials.rate_key} {rate:g}; goes by {trials.monitor}"]
    if not trials.is_constant:
        lines.append("           at constant rates, without the schedule of the experiment")
    measured = "  ".join(f"{size:,}: {digits(seconds * 1e3)}" for size, seconds in sorted(step_seconds.items()))
    one = steps * step_seconds[size] + 30 * validation
    return "\n".join(
        [
            *lines,
            *_wrapped("ms a step", measured),
            f"validation {seconds_text(validation)}",
            "to come    some 20 short trainings, each until the target or until it has lost;",
            f"           one of the whole {steps:,} steps would take {seconds_text(one)}",
        ]
    )


def trial_line(
    size: int, rate: float, seed: int, taken: float | None, points: Sequence[tuple[int, float]], monitor: str
) -> str:
    """Of a training that was made."""
    came = f"{taken:,.0f} steps" if taken is not None else "not there"
    last = f" ({monitor} {points[-1][1]:.3g} after {points[-1][0]:,})" if taken is None and points else ""
    return f"trial      batch {size:<6,} rate {digits(rate, 2):<7} seed {seed:<2} {came}{last}"


def table_lines(found: Tuned) -> list[str]:
    """Steps, samples and seconds to the target, by batch size."""
    tuner = found.tuner
    seconds = {size: tuner.steps_of(size) * tuner.seconds(size) for size in tuner.sizes}
    least, most = min(tuner.best), max(tuner.best)
    rows = [("batch", "rate", "steps", "samples", "ms a step", "seconds", "trained")]
    for size in (size for size in tuner.sizes if least <= size <= most):
        steps, known = tuner.steps_of(size), size in tuner.best
        rate = digits(tuner.best[size], 2) if known else "~" + digits(_rate(found, size), 2)
        seeds = len(tuner.steps[size, tuner.best[size]]) if known else 0
        mark = "" if known else "predicted"
        if known:
            mark = f"{seeds} seed{'s' if seeds > 1 else ''}"
            mark += ", fastest" * (size == tuner.fastest) + ", cheapest" * (size == tuner.cheapest)
        rows.append(
            (f"{size:,}", rate, f"{steps:,.0f}", f"{steps * size:,.0f}", digits(tuner.seconds(size) * 1e3),
             digits(seconds[size], 2), mark)
        )  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=False)) + f"  {row[6]}" for row in rows]
    scaling = tuner.scaling
    goal = f"{found.trials.monitor} {found.target:g}"
    facts = [f"trained to {goal} with so many seeds; seconds are steps times the measured step"]
    if found.noise_scale is not None:
        facts.append(f"the noise scale of the gradient is {found.noise_scale:,.0f} samples at the beginning")
    if scaling is not None:
        facts.append(
            f"predicted: {scaling.s_min:.3g} (1 + {scaling.b_crit:.3g} / batch) steps, within {scaling.misfit:.0%} of "
            "those trained"
        )
    return [*(line.rstrip() for line in lines), *(line for fact in facts for line in _wrapped("", fact))]


def choice_lines(found: Tuned) -> list[str]:
    """The commands of the fastest and of the cheapest."""
    tuner = found.tuner
    lines = []
    for word, size in (("fastest", tuner.fastest), ("cheapest", tuner.cheapest)):
        steps = tuner.steps_of(size)
        lines.append(
            f"{word:10} {seconds_text(steps * tuner.seconds(size))}, {steps:,.0f} steps, {steps * size:,.0f} samples"
        )
        lines += _command(found, size)
    return lines


def flags(found: Tuned, size: int) -> list[str]:
    """What to type for a batch size."""
    trials, rate = found.trials, found.tuner.best[size]
    chosen = [f"{trials.batch_key}={size}", f"{trials.rate_key}={rate:g}"]
    own = {flag.split("=")[0] for flag in chosen}
    kept = [override for override in found.overrides if override.lstrip("+").split("=")[0] not in own]
    return [*kept, *chosen, *([] if trials.is_constant else ["scheduler=constant"])]


def _command(found: Tuned, size: int) -> list[str]:
    words = ["python", "scripts/train.py", *map(shlex.quote, flags(found, size))]
    lines, line = [], "  "
    for word in words:
        if len(line) + len(word) + 1 > 78 and line.strip():
            lines, line = [*lines, f"{line} \\"], "     "
        line += f" {word}" if line.strip() else word
    return [*lines, line]


def _rate(found: Tuned, size: int) -> float:
    return predicted_rate(found.tuner.best, size)


def _wrapped(label: str, text: str) -> list[str]:
    return [f"{'' if i else label:11}{line}" for i, line in enumerate(wrap(text, 69))]
