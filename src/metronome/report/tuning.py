"""A value that is no answer but is tuned: of each setting of the others, the groups with the best of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from metronome.report.differences import Differences, Group, number_of
from metronome.report.records import RunRecord, monitor_of
from metronome.report.targets import Reached, reached
from metronome.report.ties import best_of
from metronome.runs.asking import Target
from metronome.units import direction_of


@dataclass(frozen=True)
class Setting:
    """A setting of all values but the one that is tuned, and what was measured at each value of that.

    Attributes:
        values: of the other keys.
        label: these in words.
        groups: one for each tuned value, in their order; one where nothing is tuned.
        reached: what each came to.
        best: the place in `groups` of the best, by steps to the target where all runs of a group have it, else by the
            final value of the metric; None where there is neither.
        by_steps: whether the target has decided.
    """

    values: dict[str, str]
    label: str
    groups: list[Group]
    reached: list[Reached]
    best: int | None
    by_steps: bool

    @property
    def chosen(self) -> Group | None:
        return None if self.best is None else self.groups[self.best]

    @property
    def came_to(self) -> Reached | None:
        """What the best group came to."""
        return None if self.best is None else self.reached[self.best]

    @property
    def at_edge(self) -> bool:
        """Whether the best lies at the end of what was tried, so that a better one may lie beyond."""
        return len(self.groups) > 1 and self.best in (0, len(self.groups) - 1)


def settings(
    differing: Differences, tune: str | None, target: Target | None, value: float | None, metric: str | None
) -> list[Setting]:
    """The settings, in the order of the groups, judged by one of the target's values; without one by the final value of
    the metric."""
    rest: dict[tuple[str, ...], list[Group]] = {}
    for group in differing.groups:
        rest.setdefault(tuple(v for key, v in group.values.items() if key != tune), []).append(group)
    found: list[Setting] = []
    for groups in rest.values():
        if tune in differing.keys:
            groups = sorted(groups, key=lambda group: _number(tune, group))
        values = {key: v for key, v in groups[0].values.items() if key != tune}
        label = ", ".join(f"{key.rpartition('.')[2]}={v}" for key, v in values.items()) or groups[0].label
        came_to = [
            reached(group.measured, target.metric, value, target.best_is_low, target.confirm)
            if target is not None and value is not None
            else Reached([], len(group.measured))
            for group in groups
        ]
        is_low = _is_low(differing, metric) if target is None else target.best_is_low
        best, by_steps = _best(groups, came_to, metric, is_low)
        found.append(Setting(values, label, groups, came_to, best, by_steps))
    return found


def tuned(differing: Differences, tune: str, chosen: Sequence[Setting]) -> Differences:
    """The same differences with the best group of each setting alone, and the tuned value as no difference."""
    groups: list[Group] = []
    for setting in chosen:
        if (group := setting.chosen) is not None:
            name, value = tune.rpartition(".")[2], group.values[tune]
            label = f"{setting.label} ({name} {value})" if len(chosen) > 1 else f"{name} {value}"
            groups.append(replace(group, label=label, values=setting.values))
    return Differences([key for key in differing.keys if key != tune], differing.shared, groups)


def runs_of(differing: Differences) -> list[RunRecord]:
    return [run for group in differing.groups for run in group.runs]


def _is_low(differing: Differences, metric: str | None) -> bool:
    """Whether a low value of a metric is a good one: as the runs say that monitor it, else as its name does."""
    monitor, is_low = monitor_of(runs_of(differing))
    return is_low if metric == monitor or metric is None else direction_of(metric) != "max"


def final_value(group: Group, metric: str) -> float | None:
    """The mean over the runs of a group of the last value of a metric; infinite, if it is for one of them."""
    values = [run.metrics[metric] for run in group.measured if metric in run.metrics]
    if not values or len(values) < len(group.measured):
        return None
    return fmean(values) if all(map(math.isfinite, values)) else math.inf


def _best(groups: list[Group], came_to: list[Reached], metric: str | None, is_low: bool) -> tuple[int | None, bool]:
    """The first of the best: equal ones are the same, and a smaller rate is the safer."""
    steps = [(middle, str(i)) for i, one in enumerate(came_to) if (middle := one.middle("steps")) is not None]
    if steps:
        return int(best_of(steps, True)[1][0]), True
    sign = 1 if is_low else -1
    finals = [(i, final_value(group, metric)) for i, group in enumerate(groups) if metric is not None]
    finite = [(sign * value, str(i)) for i, value in finals if value is not None and math.isfinite(value)]
    if not finite:
        return (0, False) if len(groups) == 1 else (None, False)
    return int(best_of(finite, True)[1][0]), False


def _number(key: str | None, group: Group) -> tuple[float, str]:
    value = group.values[str(key)]
    size = number_of(str(key), value, group.runs[0])
    return (math.inf if size is None else size, value)
