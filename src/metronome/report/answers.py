"""What a study asks, answered: its targets, and of each setting the best of what is tuned."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from metronome.report.records import RunRecord
from metronome.report.summary import Summary, summarize
from metronome.report.targets import grids_differ, hit
from metronome.report.tuning import Setting, runs_of, settings, tuned
from metronome.runs.asking import Asking, Target, read_asking

TIMES = ("steps", "samples", "seconds")  # of which summary.csv has the intervals
PART = 0.75  # of the groups reach the target that is set where none was asked for


@dataclass(frozen=True)
class Answers:
    """What was asked, and what was found.

    Attributes:
        asking: of the study; nothing where the runs are no study's.
        target: of the study, or one set for these runs (`own_target`); None where nothing can be compared.
        by_target: of each of its values the settings, each with the best of what is tuned.
        whole: all runs in numbers.
        best: the best group of each setting alone, by the hardest of the values; all where nothing is tuned.
        notes: sentences on what is to be known of these numbers.
    """

    asking: Asking
    target: Target | None
    by_target: dict[float, list[Setting]]
    whole: Summary
    best: Summary
    notes: list[str]

    @property
    def tune(self) -> str | None:
        """The key that is tuned, if the runs differ in it."""
        return self.asking.tune if self.asking.tune in self.whole.differences.keys else None


def answer(summary: Summary, asking: Asking) -> Answers:
    """Judge all settings by each value of the target."""
    differing = summary.differences
    target = asking.target or own_target(summary)
    tune = asking.tune if asking.tune in differing.keys else None
    metric = target.metric if target is not None else summary.monitor
    values = target.values if target is not None else ()
    by_target = {value: settings(differing, tune, target, value, metric) for value in values}
    best = summary
    if tune is not None:
        hardest = by_target[values[-1]] if values else settings(differing, tune, None, None, metric)
        chosen = tuned(differing, tune, hardest)
        if chosen.groups:
            best = summarize(runs_of(chosen), chosen)
    return Answers(asking, target, by_target, summary, best, _notes(summary, target, tune, by_target))


def own_target(summary: Summary) -> Target | None:
    """What all runs of three quarters of the groups come to, of the metric that is monitored."""
    metric, low = summary.monitor, summary.best_is_low
    if metric is None:
        return None
    if known := {value for run in summary.runs for value in run.hits}:  # of a summary.csv, which was made with one
        if said := next((run.hits_of for run in summary.runs if run.hits_of), ""):
            return Target.of_words(said, known)
        return Target(metric, tuple(sorted(known, reverse=low)), low)
    worst: list[float] = []
    for group in summary.differences.groups:
        having = [run for run in group.measured if metric in run.curves]
        bests = summary.values("best_value", having)
        if having and len(bests) == len(having):
            worst.append(max(bests) if low else min(bests))
    if len(worst) < 2:
        return None
    return Target(metric, (target_of(worst, low),), low)


def target_of(bests: list[float], best_is_low: bool) -> float:
    """The value that three quarters of the groups reach, and no better one.

    >>> target_of([0.5, 0.1, 0.3, 0.2], best_is_low=True)
    0.3
    """
    ordered = sorted(bests, reverse=not best_is_low)
    return ordered[math.ceil(PART * len(ordered)) - 1]


def times_to(target: Target | None) -> dict[str, Callable[[RunRecord], float | None]]:
    """Columns of summary.csv: the intervals of steps, samples and seconds in which a run comes to each value, where
    that is confirmed."""

    def end(value: float, which: str, axis: str, run: RunRecord) -> float | None:
        assert target is not None
        found = hit(run, target.metric, value, target.best_is_low, target.confirm)
        at = None if found is None or not found.confirmed else getattr(found, which).get(axis)
        return float(f"{at:.4g}") if at is not None and axis == "seconds" else at  # a fifth digit is noise

    values = () if target is None else target.values
    return {
        f"{axis}_to_{value:.6g}_{which}": partial(end, value, which, axis)
        for value in values for axis in TIMES for which in ("after", "by")
    }  # fmt: skip


def asking_of(places: Iterable[Path]) -> Asking:
    """What the study in these folders asks; nothing where they hold none, or several."""
    found = {asking for place in places if (asking := read_asking(place)) is not None}
    return found.pop() if len(found) == 1 else Asking()


def _notes(
    summary: Summary, target: Target | None, tune: str | None, by_target: dict[float, list[Setting]]
) -> list[str]:
    notes: list[str] = []
    measured = [run for group in summary.differences.groups for run in group.measured]
    if target is not None and (words := grids_differ(measured, target.metric)):
        notes.append(words)
    if tune is not None:
        edges = {
            value: [f"{s.label} ({s.chosen.values[tune]})" for s in found if s.at_edge and s.chosen is not None]
            for value, found in by_target.items()
        }
        said = [f"{value:g}: {'; '.join(labels)}" for value, labels in edges.items() if labels]
        if said:
            notes.append(
                f"The best {tune} lies at the edge of what was tried, so that a better one may lie beyond, at the "
                "target " + ". At ".join(said) + "."
            )
    shared = sum(not run.memory_is_own for run in summary.runs if run.result)
    if shared:
        notes.append(
            "Memory is left out: the runs of a sweep share a process, which keeps what the runs before took. "
            "study.isolate=true gives each a process of its own."
        )
    slow = sum(run.train_seconds is None for run in summary.runs)
    if slow:
        notes.append(
            f"{slow:,} of {len(summary.runs):,} runs: no seconds of training alone were measured; theirs are those of "
            "their logs, with validations."
        )
    return notes
