"""How fast samples are read one by one, each augmented, with and without workers."""

from functools import partial

from metronome.app.benchmark.asked import CASES, Asked
from metronome.app.benchmark.measuring import Case, Stopwatch, Way, clock_of
from metronome.app.benchmark.tasks import Augmented, OfOnePixel, Task, cross_entropy, sgd
from metronome.app.benchmark.ways import Training, lightning, loader_of, metronome, textbook

_BATCH, _PART, _WARMUP = 64, 1 / 5, 5
_WORKERS = (0, 1, 2)


def samples_case(asked: Asked) -> Case:
    """Samples a second (or a second computed, by the other clock)."""
    steps, clock = max(1, round(asked.steps * _PART)), clock_of(asked.clock)
    # One epoch and a bit, so that no loader begins anew.
    dataset = Augmented(_BATCH * (steps + _WARMUP + 2))
    task = Task(_BATCH, lambda: dataset, OfOnePixel, cross_entropy, sgd)

    def read(workers: int) -> float:
        stopwatch = Stopwatch(clock, steps, _WARMUP)
        for _ in loader_of(dataset, _BATCH, True, workers):
            if stopwatch.step_done():
                break
        return _BATCH / stopwatch.micros * 1e6

    def train(training: Training, workers: int) -> float:
        stopwatch = Stopwatch(clock, steps, _WARMUP)
        training(task, stopwatch, workers=workers)
        return _BATCH / stopwatch.micros * 1e6

    ways = []
    for workers in _WORKERS:
        bare, loop = f"bare DataLoader, {_in_words(workers)}", f"textbook loop, {_in_words(workers)}"
        ways.append(Way(bare, partial(read, workers), (bare, loop)))
        trainings = {"textbook loop": textbook, "Lightning": lightning, "Metronome": metronome}
        ways += [
            Way(f"{name}, {_in_words(workers)}", partial(train, training, workers), (bare, loop))
            for name, training in trainings.items()
        ]
    notes = "the bare DataLoader only reads; the others make a small step with each batch"
    unit = "samples a second" if asked.clock == "wall" else "samples a second computed"
    return Case("samples", CASES["samples"], unit, ways, ("bare", "textbook"), notes=lambda _: [notes])


def _in_words(workers: int) -> str:
    return f"{workers or 'no'} worker{'' if workers == 1 else 's'}"
