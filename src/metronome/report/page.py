"""The report as one page of HTML that needs nothing else: style, script and figures are in it."""

import base64
import math
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from html import escape

from metronome.report.differences import Differences, Group, number_of, shown
from metronome.report.records import UNFINISHED, Run, dig
from metronome.report.style import Picture, plain
from metronome.report.summary import Summary, mean_and_spread

GENERATOR = '<meta name="generator" content="metronome report">'  # by which a report is known again

_STYLE = """
:root { color-scheme: light; --line: #e3e5e8; --soft: #f6f7f9; --text: #1d2126; --grey: #5d6670; --blue: #0062a3; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--text); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
p { margin: 8px 0; } .note { color: var(--grey); font-size: 14px; }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--soft);
  padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 14px 0; }
dt { color: var(--grey); } dd { margin: 0; }
nav { margin: 14px 0 0; font-size: 14px; } nav a { margin-right: 14px; } a { color: var(--blue); }
.table { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; max-height: 80vh; overflow-y: auto; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th.word, td.word { text-align: left; }
thead th { position: sticky; top: 0; background: var(--soft); padding: 0; z-index: 1; }
th button { all: unset; box-sizing: border-box; cursor: pointer; padding: 8px 10px; width: 100%; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--blue); outline-offset: -2px; border-radius: 4px; }
th button::after { content: "\\2195"; color: #b3bac2; margin-left: 5px; font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--blue); }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--blue); }
tbody tr:hover td { background: #f2f7fb; } tbody tr:last-child td { border-bottom: 0; }
td small { color: var(--grey); } td.folder { max-width: 340px; overflow: hidden; text-overflow: ellipsis; }
details { margin: 14px 0; } summary { cursor: pointer; color: var(--blue); padding: 4px 0; }
figure { margin: 22px 0 30px; } figure img { width: 100%; max-width: 1000px; height: auto; display: block; }
figcaption { color: var(--grey); font-size: 14px; max-width: 1000px; margin-top: 6px; }
li { margin: 4px 0; overflow-wrap: anywhere; }
@media print { .table { overflow: visible; max-height: none; } details { display: none; }
  figure { break-inside: avoid; } }
"""

# A click, Enter or Space on a heading sorts its table: numbers by size, empty cells last.
_SCRIPT = """
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const x = key(a), y = key(b), m = parseFloat(x), n = parseFloat(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      const numbers = [isNaN(m) ? 1 : 0, isNaN(n) ? 1 : 0];
      if (numbers[0] !== numbers[1]) return numbers[0] - numbers[1];
      return (up ? 1 : -1) * (numbers[0] ? x.localeCompare(y) : m - n);
    };
    body.append(...[...body.rows].sort(compare));
  }));
});
"""


def page(
    title: str, summary: Summary, unread: list[str], sections: list[tuple[str, str, list[Picture]]], version: str
) -> str:
    """The whole page. `sections` are a heading, a sentence (or nothing), and figures."""
    differing = summary.differences
    problems = [f"{run.name}: {problem}" for run in summary.runs for problem in run.problems]
    troubled = [run for run in summary.runs if run.status != "finished"]
    parts = [
        _header(title, summary),
        _section("What differs", _what_differs(differing)),
        _section("Results", _results(summary)),
        *(_section(name, (f"<p>{_e(words)}</p>" if words else "") + "".join(map(_figure, pictures)))
          for name, words, pictures in sections),
        _section("Not finished", _troubled(troubled)) if troubled else "",
        _section("Not read", _list(unread + problems)) if unread or problems else "",
        _section("How it is measured", _meanings(summary)),
    ]  # fmt: skip
    made = f'<p class="note">Made by metronome {_e(version)} on {datetime.now():%Y-%m-%d %H:%M}.</p>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{''.join(parts)}{made}\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _header(title: str, summary: Summary) -> str:
    runs = summary.runs
    ended = ", ".join(f"{count:,} {status}" for status, count in _statuses(runs).items())
    groups = len(summary.differences.groups)
    facts = {
        "Runs": f"{len(runs):,} ({ended})"
        + (f" in {groups:,} groups that differ in more than the seed" if groups > 1 else ""),
        "Experiment": ", ".join(sorted({run.experiment for run in runs})),
        "Common to all": _codes(summary.differences.shared) or "the defaults of the experiment",
        "Monitored": _monitored(summary),
        "Run": _when(runs),
        "Versions": "; ".join(_versions(runs)),
        "Code": ", ".join(sorted({str(c)[:12] for run in runs if (c := dig(run.result, "git_commit"))})),
    }
    rows = [
        f"<dt>{_e(name)}</dt><dd>{text if name == 'Common to all' else _e(text)}</dd>"
        for name, text in facts.items()
        if text
    ]
    return f"<h1>{_e(title)}</h1>\n<dl>{''.join(rows)}</dl>\n"


def _monitored(summary: Summary) -> str:
    return (
        f"{summary.monitor}, the {'lower' if summary.best_is_low else 'higher'} the better" if summary.monitor else ""
    )


def _when(runs: Iterable[Run]) -> str:
    times = sorted(t for run in runs if (t := _began(run)) is not None)
    return (
        ""
        if not times
        else f"{_time(times[0])} to {_time(times[-1])}"
        if times[-1] - times[0] > 60
        else _time(times[0])
    )


def _began(run: Run) -> float | None:
    try:
        return (run.folder / "config.yaml").stat().st_mtime
    except OSError:
        return None


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def _versions(runs: Iterable[Run]) -> list[str]:
    found = [dig(run.result, "versions") for run in runs]
    return sorted(
        {", ".join(f"{name} {v}" for name, v in versions.items()) for versions in found if isinstance(versions, dict)}
    )


def _what_differs(differing: Differences) -> str:
    if not differing.keys:
        return "<p>Nothing but the seed.</p>" if len(differing.groups[0].runs) > 1 else "<p>There is one run.</p>"
    rows: list[str] = []
    for key in differing.keys:
        values = list(dict.fromkeys(group.values[key] for group in differing.groups))
        more = f" and {len(values) - 30:,} more" if len(values) > 30 else ""
        rows.append(f"<dt><code>{_e(key)}</code></dt><dd>{_codes(map(shown, values[:30]))}{more}</dd>")
    seeds = sorted({run.seed for group in differing.groups for run in group.runs}, key=lambda s: (len(s), s))
    rows.append(f"<dt>seed</dt><dd>{_codes(seeds[:30])}{' …' if len(seeds) > 30 else ''}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _results(summary: Summary) -> str:
    groups, runs = summary.differences.groups, summary.runs
    words = '<p class="note">Click a heading to sort.</p>'
    if len(groups) == len(runs):
        return words + _table_of_runs(summary)
    spread = (
        '<p class="note">A row is a group of runs that differ in nothing but the seed: mean ± standard deviation over '
        "the runs that finished. Click a heading to sort.</p>"
    )
    every = f"<details><summary>Every run ({len(runs):,})</summary>{_table_of_runs(summary)}</details>"
    return spread + _table_of_groups(summary) + every


def _table_of_groups(summary: Summary) -> str:
    keys = summary.differences.keys
    heads = [*((key, "", True) for key in keys), ("runs", "runs in the group", False), ("status", "", True)]
    heads += [(column.title, column.meaning, False) for column in summary.columns]
    rows: list[list[str]] = []
    for group in summary.differences.groups:
        cells = [_value(key, group.values[key], group.runs[0]) for key in keys]
        cells += [_cell(float(len(group.runs))), _word(_status(group))]
        for column in summary.columns:
            values = summary.values(column.name, group.measured)
            cells.append(_cell(*mean_and_spread(values)) if values else _cell(None))
        rows.append(cells)
    return _table(heads, rows)


def _table_of_runs(summary: Summary) -> str:
    keys = summary.differences.keys
    values = {id(run): group.values for group in summary.differences.groups for run in group.runs}
    heads = [*((key, "", True) for key in keys), ("seed", "", True), ("status", "", True)]
    heads += [(column.title, column.meaning, False) for column in summary.columns]
    heads.append(("folder", "", True))
    rows: list[list[str]] = []
    for i, run in enumerate(summary.runs):
        cells = [_value(key, values[id(run)][key], run) for key in keys] + [_word(run.seed), _word(run.status)]
        cells += [_cell(column.values[i]) for column in summary.columns]
        rows.append([*cells, f'<td class="word folder" title="{_e(run.name)}">{_e(run.name)}</td>'])
    return _table(heads, rows)


def _table(heads: list[tuple[str, str, bool]], rows: list[list[str]]) -> str:
    cells = [
        f'<th scope="col"{" class=word" if word else ""} title="{_e(meaning)}">'
        f'<button type="button">{_e(name)}</button></th>'
        for name, meaning, word in heads
    ]
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    return f'<div class="table"><table class="sortable">{head}<tbody>\n{body}\n</tbody></table></div>\n'


def _word(value: str, sorted_by: str | None = None) -> str:
    short = shown(value if len(value) <= 60 else value[:58] + "…")
    return f'<td class="word" data-v="{_e(value if sorted_by is None else sorted_by)}">{_e(short)}</td>'


def _value(key: str, value: str, run: Run) -> str:
    """A differing value; one that stands for a number is sorted by it."""
    size = number_of(key, value, run)
    return _word(value) if size is None else _word(value, f"{size:.17g}")


def _cell(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return '<td data-v=""></td>'
    if not math.isfinite(value):
        return f'<td data-v="">{value}</td>'
    around = f" <small>± {plain(float(f'{spread:.2g}'))}</small>" if spread else ""
    return f'<td data-v="{value!r}">{_short(value)}{around}</td>'


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return plain(float(f"{value:.4g}"))


def _statuses(runs: Iterable[Run]) -> dict[str, int]:
    """How many runs ended how: the finished first."""
    counts = Counter(run.status for run in runs)
    return {status: counts[status] for status in sorted(counts, key=_in_order)}


def _in_order(status: str) -> tuple[int, str]:
    known = ("finished", "stopped", "failed", UNFINISHED)
    return known.index(status) if status in known else len(known), status


def _status(group: Group) -> str:
    counts = _statuses(group.runs)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {name}" for name, count in counts.items())


def _troubled(runs: list[Run]) -> str:
    items: list[str] = []
    for run in sorted(runs, key=lambda run: _in_order(run.status)):
        why = f": {_e(run.error)}" if run.error else ""
        done = f" after {run.steps:,} steps" if run.steps else ""
        state = "unfinished (it runs, or was cut off)" if run.status == UNFINISHED else run.status
        items.append(f"<li><strong>{_e(state)}</strong>{done}{why}<br><code>{_e(run.name)}</code></li>")
    return f"<ul>{''.join(items)}</ul>"


def _meanings(summary: Summary) -> str:
    rows = [f"<dt>{_e(c.title)}</dt><dd>{_e(c.meaning)}</dd>" for c in summary.columns]
    curves = (
        "A batch is what one step (parameter update) sees. Samples and epochs are worked out from steps by each run's "
        "plan, epoch by epoch; seconds are those of the logs, without the time between the starts of one that went on."
    )
    return f'<p class="note">{curves}</p><details><summary>Columns</summary><dl>{"".join(rows)}</dl></details>'


def _figure(picture: Picture) -> str:
    content = base64.b64encode(picture.png).decode()
    caption = f"<figcaption>{_e(picture.caption)}</figcaption>" if picture.caption else ""
    return f'<figure><img src="data:image/png;base64,{content}" alt="{_e(picture.alt)}">{caption}</figure>\n'


def _section(name: str, content: str) -> str:
    return f"<section>\n<h2>{_e(name)}</h2>\n{content}\n</section>\n"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{_e(line)}</li>' for line in lines)}</ul>"


def _codes(values: Iterable[str]) -> str:
    return " ".join(f"<code>{_e(value)}</code>" for value in values)


def _e(text: object) -> str:
    return escape(str(text), quote=True)
