"""What tune chooses on the digits, beside the best of a full grid:

    python tests/support/against_grid.py [target ...]

The grid is that of conf/study/results/batch_size.csv: seven batch sizes x seven rates x three seeds, each trained until
the target by StopAtTarget. What tune chooses, from each of three seeds, is trained with the same three seeds, validated
at the same steps. Seconds are steps times what a step of that size takes, measured here once for both, so that a busy
machine is busy for both.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from commands import PROJECT
from hydra import compose, initialize_config_dir

from metronome.app.console.resolvers import register_resolvers
from metronome.app.tune.search import crossing
from metronome.app.tune.story import find
from metronome.app.tune.text import Tuned
from metronome.app.tune.trial import CONFIRM

SEEDS, EVERY, LONGEST = (0, 1, 2), 2, 1_400  # those of the study
Setting = tuple[int, float]  # batch size, rate


@dataclass(frozen=True)
class Compared:
    """One choice beside the grid's best."""

    target: float
    seed: int
    chosen: Setting
    steps: float
    best: Setting
    best_steps: float
    ratio: float  # of seconds
    trials: int


def grid(target: float) -> dict[Setting, float]:
    """Mean steps to a target of the study's settings of which all seeds came there."""
    found: dict[Setting, list[float]] = {}
    name = f"steps_to_{target:g}_"
    with open(PROJECT / "conf/study/results/batch_size.csv") as file:
        for row in csv.DictReader(file):
            if row[f"{name}by"]:
                size = 1257 if row["data.batch_size"] == "full" else int(row["data.batch_size"])
                middle = (float(row[f"{name}after"]) + float(row[f"{name}by"])) / 2
                found.setdefault((size, float(row["optimizer.lr"])), []).append(middle)
    return {setting: mean(steps) for setting, steps in found.items() if len(steps) == len(SEEDS)}


def configured(*overrides: str) -> Any:
    register_resolvers()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("tune", list(overrides))


def steps_of(found: Tuned, setting: Setting) -> float:
    """Mean steps of a setting over the study's seeds, as the study takes them."""
    every: list[float] = []
    for seed in SEEDS:
        curve = found.trials.curve(*setting, seed, LONGEST, EVERY, found.target)
        taken = crossing(curve.points, found.target, 1, CONFIRM)
        every.append(float("inf") if taken is None else taken)
    return mean(every)


def compare(
    target: float, seed: int, seconds: Callable[[int], float] | None = None, say: Callable[[str], None] = print
) -> Compared:
    """Tune from one seed. `seconds`: a step, by batch size; None: as measured."""
    overrides = ["+experiment=minibatch", f"target={target}", f"seed={seed}"]
    found = find(configured(*overrides), overrides, say, seconds)
    cost = found.tuner.seconds
    size = found.tuner.fastest
    chosen = size, found.tuner.best[size]
    steps, known = steps_of(found, chosen), grid(target)
    best = min(known, key=lambda setting: known[setting] * cost(setting[0]))
    ratio = steps * cost(size) / (known[best] * cost(best[0]))
    return Compared(
        target, seed, chosen, steps, best, known[best], ratio, sum(len(by) for by in found.tuner.steps.values())
    )


def table(rows: list[Compared]) -> str:
    lines = ["target  seed  chosen       steps  best of grid  steps  seconds, times the grid's  trainings"]
    for row in rows:
        (size, rate), (their_size, their_rate) = row.chosen, row.best
        lines.append(
            f"{row.target:6g}  {row.seed:4}  {size:4} {rate:<6.3g} {row.steps:6.1f}  {their_size:5} {their_rate:<6.3g} "
            f"{row.best_steps:6.1f}  {row.ratio:25.2f}  {row.trials:9}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    targets = [float(text) for text in sys.argv[1:]] or [0.54, 0.30, 0.25]
    print(table([compare(target, seed, say=lambda _: None) for target in targets for seed in SEEDS]))
