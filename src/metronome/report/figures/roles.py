"""Which groups of runs are told apart in figures, and how each looks."""

from dataclasses import dataclass, replace

from matplotlib import colormaps

from metronome.report.differences import Group, number_of
from metronome.report.figures.style import MOST, Look, look
from metronome.report.summary import Summary


@dataclass(frozen=True)
class Roles:
    """The groups told apart, each with its look, and the `others`, drawn in grey. `why` says how they were chosen."""

    looks: list[tuple[Group, Look]]
    others: list[Group]
    why: str


def roles_of(summary: Summary) -> Roles:
    """At most `MOST` of the groups with curves: of a swept number evenly spread values, else those that are best."""
    groups = [group for group in summary.differences.groups if any(run.curves for run in group.runs)]
    keys = summary.differences.keys
    ordered = len(keys) == 1 and len(groups) > 2
    ordered = ordered and all(number_of(keys[0], g.values[keys[0]], g.runs[0]) is not None for g in groups)
    shown, why = groups, ""
    if len(groups) > MOST and ordered:
        shown = [groups[round(i * (len(groups) - 1) / (MOST - 1))] for i in range(MOST)]
        why = f"{MOST} of {len(groups)} values, evenly spread, are told apart; the others are grey."
    elif len(groups) > MOST:
        best = sorted(groups, key=lambda group: _rank(summary, group))[:MOST]
        shown = [group for group in groups if group in best]
        what = f"the best {summary.monitor or 'result'}"
        why = f"The {MOST} of {len(groups)} groups with {what} are told apart; the others are grey."
    looks = [look(i) for i in range(len(shown))]
    if ordered:
        colours = colormaps["viridis"]
        looks = [replace(one, colour=colours(0.88 * i / max(len(shown) - 1, 1))) for i, one in enumerate(looks)]
    return Roles(list(zip(shown, looks, strict=True)), [group for group in groups if group not in shown], why)


def _rank(summary: Summary, group: Group) -> float:
    values = summary.values("best_value", group.measured)
    if not values:
        return float("inf")
    return sum(values) / len(values) * (1 if summary.best_is_low else -1)
