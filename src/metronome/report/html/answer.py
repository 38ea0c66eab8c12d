"""What the page begins with: the groups with mean, spread and n, the best marked, and in a sentence which those are."""

from collections.abc import Sequence
from statistics import fmean, stdev

from metronome.report.answers import Answers
from metronome.report.differences import Group
from metronome.report.figures.style import plain
from metronome.report.html.elements import escaped
from metronome.report.html.tables import marked_cell, table, value_cell, word_cell
from metronome.report.html.targets import AXES, target_table
from metronome.report.summary import Summary, in_words, mean_and_spread
from metronome.report.ties import best_of, with_whom
from metronome.report.tuning import Setting

# Of a study without a target: what its groups are told by, and whether little is good; None where neither is.
_COLUMNS = {
    "best_value": None, "best_epoch": None, "test/acc": False, "test/loss": True, "gap_accuracy": None, "steps": None,
    "samples": None, "train_seconds": True, "peak_memory_MB": True,
}  # fmt: skip
_MOST_NEAR = 3  # settings named beside the best
_ALONE = (
    "Marked: the best of a column, and all that are the same within rounding. Each group is one run, so that nothing "
    "is known of how far another seed would come out."
)
_NOTE = (
    "Marked: the best mean of a column, and all that are the same within rounding. ± is the standard deviation over "
    "the n runs of a group; a difference that is smaller is none that these runs can show."
)


def the_answer(answers: Answers) -> str:
    """A sentence and a table."""
    words, found = _of_targets(answers) if answers.asking.target is not None else _of_groups(answers.best)
    groups = answers.best.differences.groups
    seeds = {frozenset(run.seed for run in group.measured) for group in groups}
    if all(len(group.measured) <= 1 for group in groups):
        note = _ALONE if len(groups) > 1 else "One run: nothing is known of how far another seed would come out."
    else:
        note = _NOTE if len(groups) > 1 else "± is the standard deviation over the n runs."
    if len(seeds) > 1:
        note += " The groups do not have the same seeds, so that some of a difference may be theirs."
    return (f'<p class="answer">{escaped(words)}</p>\n' if words else "") + found + f'<p class="note">{note}</p>\n'


def _of_targets(answers: Answers) -> tuple[str, str]:
    """The settings at the hardest of the values that all runs of one came to."""
    target = answers.target
    assert target is not None
    reached = [v for v, found in answers.by_target.items() if any(s.came_to and s.came_to.by_all for s in found)]
    value = reached[-1] if reached else target.values[-1]
    found = answers.by_target[value]
    sign = "≤" if target.best_is_low else "≥"
    confirmed = f", {target.confirm} times in a row," if target.confirm > 1 else ""
    where = f"{target.metric} {sign} {plain(value)}{confirmed}"
    least = [said for axis, name in AXES.items() if (said := _least(found, axis, name))]
    tuned = f", each at its best {answers.tune}" if answers.tune else ""
    runs = [run for group in answers.whole.differences.groups for run in group.measured]
    if not any(run.hits or target.metric in run.curves or target.metric in run.metrics for run in runs):
        words = f"No run has logged {target.metric}, so nothing is known of how it comes to {plain(value)}."
    elif not reached:
        words = f"No setting comes to {where} with all its runs."
    elif least:
        words = f"To {where} it takes{tuned}: {'; '.join(least)}."
    else:
        words = f"One setting comes to {where} with all its runs{tuned}."
    return words, target_table(answers, value)


def _least(found: Sequence[Setting], axis: str, name: str) -> str:
    """`the fewest steps with 512 (61 ± 1.2, n = 3; no farther than a standard deviation: 128)`."""
    came_to = {s.label: s.came_to.middles(axis) for s in found if s.came_to and s.came_to.middle(axis) is not None}
    if len(came_to) < 2:
        return ""
    _, names = best_of([(fmean(middles), label) for label, middles in came_to.items()], True)
    near = [label for label in came_to if label not in names and _is_near(came_to[label], came_to[names[0]])]
    more = f" and {len(near) - _MOST_NEAR} more" if len(near) > _MOST_NEAR else ""
    said = f"; no farther than a standard deviation: {', '.join(near[:_MOST_NEAR])}{more}" if near else ""
    return f"the fewest {name} {with_whom(names, came_to)} ({in_words(came_to[names[0]])}{said})"


def _is_near(some: Sequence[float], others: Sequence[float]) -> bool:
    """Whether two means differ by less than the larger of both spreads."""
    spread = max((stdev(values) for values in (some, others) if len(values) > 1), default=0.0)
    return abs(fmean(some) - fmean(others)) <= spread


def _of_groups(summary: Summary) -> tuple[str, str]:
    """All groups by what differs between them."""
    groups = [group for group in summary.differences.groups if summary.values("steps", group.measured)]
    means = {name: _means(summary, groups, name) for name in _COLUMNS}
    told = [name for name, of in means.items() if of and (len(groups) < 2 or not summary.is_the_same(name, groups))]
    titles = {column.name: column for column in summary.columns}
    heads = [*((key, "", True) for key in summary.differences.keys), ("n", "runs that the numbers are of", False)]
    heads += [(titles[name].title, titles[name].meaning, False) for name in told]
    best = {name: _best(summary, name, means[name]) for name in told} if len(groups) > 1 else {}
    rows: list[list[str]] = []
    for group in groups:
        cells = [value_cell(key, group.values[key], group.runs[0]) for key in summary.differences.keys]
        cells.append(word_cell(str(len(group.measured))))
        for name in told:
            values = summary.values(name, group.measured)
            cell = mean_and_spread(values) if values else (None, None)
            cells.append(marked_cell(*cell, is_best=group.label in best.get(name, ())))
        rows.append(cells)
    equal = [name for name in means if means[name] and name not in told]
    said = [f"{titles[name].title} {plain(float(f'{fmean(means[name].values()):.6g}'))}" for name in equal]
    words = _best_words(summary, groups)
    if said:
        words += f" The same for all, within rounding: {', '.join(said)}."
    return words.strip(), table(heads, rows) if rows else ""


def _means(summary: Summary, groups: Sequence[Group], name: str) -> dict[str, float]:
    found = {group.label: summary.values(name, group.measured) for group in groups}
    return {label: fmean(values) for label, values in found.items() if values}


def _best(summary: Summary, name: str, means: dict[str, float]) -> list[str]:
    is_low = summary.best_is_low if name == "best_value" else _COLUMNS[name]
    if is_low is None or len(means) < 2:
        return []
    return best_of([(mean, label) for label, mean in means.items()], is_low)[1]


def _best_words(summary: Summary, groups: Sequence[Group]) -> str:
    if (best := summary.best_groups(groups)) is not None:
        values, names, every = best
        return f"The best {summary.monitor} is {with_whom(names, every)} ({in_words(values)})."
    if groups and (values := summary.bests(groups[0])):
        epochs = summary.values("best_epoch", groups[0].measured)
        at = f", at epoch {in_words(epochs).partition(',')[0]}" if epochs else ""
        return f"The best {summary.monitor}: {in_words(values)}{at}."
    return ""
