"""What a step costs: the cases that train a task in every way."""

from collections.abc import Mapping
from functools import partial
from statistics import median

from metronome.app.benchmark.asked import CASES, Asked
from metronome.app.benchmark.measuring import Case, Stopwatch, Way, clock_of
from metronome.app.benchmark.tasks import TASKS, Task
from metronome.app.benchmark.ways import Training, bare, lightning, metronome, textbook
from metronome.app.run.result import weights_digest

BARE, TEXTBOOK, LIGHTNING, METRONOME = "bare loop", "textbook loop", "Lightning", "Metronome"
PARTS = 8
_WHOLE: dict[str, Training] = {
    BARE: bare,
    TEXTBOOK: textbook,
    LIGHTNING: lightning,
    METRONOME: metronome,
    f"{METRONOME}, a value logged": partial(metronome, logs=True),
}
_CUT: dict[str, Training] = {
    f"{BARE}, in {PARTS}": partial(bare, parts=PARTS),
    f"{METRONOME}, in {PARTS}": partial(metronome, parts=PARTS),
}
_STEPS_CHECKED = 3
_LONG_WARMUP = 20


def step_case(name: str, asked: Asked) -> Case:
    """A case in `TASKS`: microseconds a step."""
    task = TASKS[name]
    steps, clock = task.steps(asked.steps), clock_of(asked.clock)
    warmup = min(_LONG_WARMUP, steps)

    def measure(training: Training) -> float:
        stopwatch = Stopwatch(clock, steps, warmup)
        training(task, stopwatch)
        return stopwatch.micros

    ways = [Way(way, partial(measure, training), (BARE, TEXTBOOK, LIGHTNING)) for way, training in _WHOLE.items()]
    if task.is_cut:
        beside = (f"{BARE}, in {PARTS}", None, None)
        ways += [Way(way, partial(measure, training), beside) for way, training in _CUT.items()]
    return Case(
        name,
        CASES[name],
        "us a step",
        ways,
        ("bare", "textbook", "Lightning"),
        shows_added=True,
        check=partial(_checked, task),
        notes=_further_micro_batch if task.is_cut else None,
    )


def last_weights(task: Task) -> list[dict[str, str]]:
    """A digest of the weights (and buffers) with which each way ends after a few batches in the same order.

    Cut into micro-batches a batch has the same gradient but for rounding, and other statistics for BatchNorm: these
    ways are a group of their own.
    """
    found = []
    for group in (_WHOLE, _CUT if task.is_cut else {}):
        trained = {
            way: training(task, Stopwatch(clock_of("wall"), _STEPS_CHECKED - 1, warmup=1), shuffle=False)
            for way, training in group.items()
        }
        found.append({way: weights_digest(network) for way, network in trained.items()})
    return found


def _checked(task: Task) -> str:
    same = all(len(set(group.values())) <= 1 for group in last_weights(task))
    if not same:
        return "CHECKED: NOT ALL WAYS END WITH THE SAME WEIGHTS"
    cut = "; so do those that cut each batch" if task.is_cut else ""
    return f"checked: all ways end with the same weights, bit for bit{cut}"


def _further_micro_batch(values: Mapping[str, list[float]]) -> list[str]:
    """What each micro-batch but the first adds to what it adds to a bare loop."""
    cut, uncut = f"{METRONOME}, in {PARTS}", METRONOME
    bare_cut, bare_uncut = f"{BARE}, in {PARTS}", BARE
    rounds = zip(values[cut], values[uncut], values[bare_cut], values[bare_uncut], strict=True)
    costs = [((a - b) - (c - d)) / (PARTS - 1) for a, b, c, d in rounds]
    spread = f"{min(costs):,.0f} - {max(costs):,.0f}"
    return [f"a further micro-batch costs {median(costs):,.0f} us ({spread}) more than one of the bare loop"]
