"""Which groups of runs are told apart in figures, and how each looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metronome.report.differences import Group, number_of
from metronome.report.figures.style import (
    MOST,
    OTHERS,
    Look,
    Medium,
    colour_scale,
    figure,
    legend,
    look,
    ordered,
    plain,
)
from metronome.report.summary import Summary
from metronome.report.value_text import shown


@dataclass(frozen=True)
class Roles:
    """The groups told apart, each with its look, and the `others`, drawn in grey. `why` says how they were chosen.

    `key` is the one number that the groups differ in, whose values have an ordered scale of colours; None where they
    differ in something else.
    """

    looks: list[tuple[Group, Look]]
    others: list[Group]
    why: str
    key: str | None = None

    def scale(self) -> list[str]:
        """What stands at the colours of the scale: the values, each with what was tuned for it, if anything was."""
        return [] if self.key is None else [value_in_words(self.key, group) for group, _ in self.looks]


def roles_of(summary: Summary) -> Roles:
    """At most `MOST` of the groups with curves, or with times to a target: of a swept number evenly spread values, else
    those that are best."""
    groups = [group for group in summary.differences.groups if any(run.curves or run.hits for run in group.runs)]
    keys = summary.differences.keys
    is_ordered = len(keys) == 1 and len(groups) > 2
    is_ordered = is_ordered and all(number_of(keys[0], g.values[keys[0]], g.runs[0]) is not None for g in groups)
    shown_ones, why = groups, ""
    if len(groups) > MOST and is_ordered:
        shown_ones = [groups[round(i * (len(groups) - 1) / (MOST - 1))] for i in range(MOST)]
        why = f"{MOST} of {len(groups)} values, evenly spread, are told apart; the others are grey."
    elif len(groups) > MOST:
        best = sorted(groups, key=lambda group: _rank(summary, group))[:MOST]
        shown_ones = [group for group in groups if group in best]
        what = f"the best {summary.monitor or 'result'}"
        why = f"The {MOST} of {len(groups)} groups with {what} are told apart; the others are grey."
    looks = ordered(len(shown_ones)) if is_ordered else [look(i) for i in range(len(shown_ones))]
    others = [group for group in groups if group not in shown_ones]
    return Roles(list(zip(shown_ones, looks, strict=True)), others, why, keys[0] if is_ordered else None)


def value_in_words(key: str, group: Group) -> str:
    """A swept number as a number, so that the whole data set is the samples that it has."""
    value = group.values[key]
    size = number_of(key, value, group.runs[0])
    return shown(value) if size is None else plain(float(f"{size:.6g}"))


def with_unit(key: str) -> str:
    """The name of a swept value with its unit, where it has one that is known."""
    return {"data.batch_size": "batch size (samples)", "trainer.max_epochs": "epochs"}.get(key, key)


class Key:
    """What tells the groups of a figure apart: a scale of colours for one number, a legend for all else."""

    def __init__(self, roles: Roles, told_apart: Sequence[tuple[Group, Look]], others: int) -> None:
        self.roles = roles
        self.labels = [] if roles.key is not None else [group.label for group, _ in told_apart]
        self.looks = [] if roles.key is not None else [one for _, one in told_apart]
        self.others = others

    @property
    def legend_labels(self) -> list[str]:
        return [*self.labels, *([f"{self.others:,} others"] if self.others else [])]

    def figure(self, rows: int, columns: int, height: float, medium: Medium, **options: Any) -> tuple[Figure, Any]:
        more = 0.0 if self.roles.key is None else 0.55
        return figure(rows, columns, height + more, self.legend_labels, medium, **options)

    def draw(self, made: Figure, panels: Sequence[Axes], medium: Medium) -> None:
        if self.roles.key is not None:
            colour_scale(made, panels, with_unit(self.roles.key), self.roles.scale(), medium)
        handles = [Line2D([], [], color=one.colour, linestyle=one.line, linewidth=2) for one in self.looks]
        if self.others:
            handles.append(Line2D([], [], color=OTHERS))
        legend(made, handles, self.legend_labels, medium)


def _rank(summary: Summary, group: Group) -> float:
    values = summary.values("best_value", group.measured)
    if not values:
        return float("inf")
    return sum(values) / len(values) * (1 if summary.best_is_low else -1)
