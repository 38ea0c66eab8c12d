"""The tables of results: a row for each group of runs, and one for each run."""

import math

from metronome.report.differences import number_of
from metronome.report.figures.style import plain
from metronome.report.html.elements import escaped
from metronome.report.html.statuses import status_of
from metronome.report.records import RunRecord
from metronome.report.summary import Summary, mean_and_spread
from metronome.report.value_text import shown


def results(summary: Summary) -> str:
    """All numbers of all groups; nothing where each run is a group of its own, and `every_run` has them."""
    if len(summary.differences.groups) == len(summary.runs):
        return ""
    spread = (
        '<p class="note">A row is a group of runs that differ in nothing but the seed: mean ± standard deviation over '
        "the runs that finished. Click a heading to sort.</p>"
    )
    return spread + _table_of_groups(summary)


def every_run(summary: Summary) -> str:
    return '<p class="note">Click a heading to sort.</p>' + _table_of_runs(summary)


def _table_of_groups(summary: Summary) -> str:
    keys = summary.differences.keys
    heads = [*((key, "", True) for key in keys), ("runs", "runs in the group", False), ("status", "", True)]
    heads += [(column.title, column.meaning, False) for column in summary.columns]
    rows: list[list[str]] = []
    for group in summary.differences.groups:
        cells = [value_cell(key, group.values[key], group.runs[0]) for key in keys]
        cells += [_cell(float(len(group.runs))), word_cell(status_of(group))]
        for column in summary.columns:
            values = summary.values(column.name, group.measured)
            cells.append(_cell(*mean_and_spread(values)) if values else _cell(None))
        rows.append(cells)
    return table(heads, rows)


def _table_of_runs(summary: Summary) -> str:
    keys = summary.differences.keys
    values = {id(run): group.values for group in summary.differences.groups for run in group.runs}
    heads = [*((key, "", True) for key in keys), ("seed", "", True), ("status", "", True)]
    heads += [(column.title, column.meaning, False) for column in summary.columns]
    heads.append(("folder", "", True))
    rows: list[list[str]] = []
    for i, run in enumerate(summary.runs):
        cells = [value_cell(key, values[id(run)][key], run) for key in keys] + [
            word_cell(run.seed),
            word_cell(run.status),
        ]
        cells += [_cell(column.values[i]) for column in summary.columns]
        rows.append([*cells, f'<td class="word folder" title="{escaped(run.name)}">{escaped(run.name)}</td>'])
    return table(heads, rows)


def table(heads: list[tuple[str, str, bool]], rows: list[list[str]]) -> str:
    cells = [
        f'<th scope="col"{" class=word" if word else ""} title="{escaped(meaning)}">'
        f'<button type="button">{escaped(name)}</button></th>'
        for name, meaning, word in heads
    ]
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    return f'<div class="table"><table class="sortable">{head}<tbody>\n{body}\n</tbody></table></div>\n'


def word_cell(value: str, sorted_by: str | None = None) -> str:
    short = shown(value if len(value) <= 60 else value[:58] + "…")
    return f'<td class="word" data-v="{escaped(value if sorted_by is None else sorted_by)}">{escaped(short)}</td>'


def value_cell(key: str, value: str, run: RunRecord) -> str:
    """A differing value; one that stands for a number is sorted by it."""
    size = number_of(key, value, run)
    return word_cell(value) if size is None else word_cell(value, f"{size:.17g}")


def _cell(value: float | None, spread: float | None = None) -> str:
    return marked_cell(value, spread)


def marked_cell(value: float | None, spread: float | None, is_best: bool = False) -> str:
    """A number with its spread; marked, if it is one of the best of its column."""
    if value is None:
        return '<td data-v=""></td>'
    if not math.isfinite(value):
        return f'<td data-v="">{value}</td>'
    around = f" <small>± {plain(float(f'{spread:.2g}'))}</small>" if spread else ""
    number = f"<strong>{_short(value)}</strong>" if is_best else _short(value)
    return f'<td{" class=best" if is_best else ""} data-v="{value!r}">{number}{around}</td>'


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return plain(float(f"{value:.4g}"))
