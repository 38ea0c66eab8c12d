"""The report as one page of HTML that needs nothing else: style, script and figures are in it."""

import base64
from collections.abc import Iterable
from datetime import datetime

from metronome.report.answers import Answers
from metronome.report.differences import Differences
from metronome.report.figures.style import Picture
from metronome.report.html.advice import advice_of
from metronome.report.html.answer import the_answer
from metronome.report.html.elements import bullets, codes, escaped, section
from metronome.report.html.statuses import in_order, statuses
from metronome.report.html.style_and_script import NARROW_BELOW, SCRIPT, STYLE
from metronome.report.html.tables import every_run, results
from metronome.report.html.targets import targets
from metronome.report.records import UNFINISHED, RunRecord
from metronome.report.summary import Summary
from metronome.report.value_text import shown
from metronome.runs.names import CONFIG_FILE
from metronome.runs.nested import below

GENERATOR = '<meta name="generator" content="metronome report">'  # by which a report is known again


def page(
    title: str,
    answers: Answers,
    unread: list[str],
    sections: list[tuple[str, str, list[Picture]]],
    version: str,
    source: str = "",
) -> str:
    """The whole page: the answer, then figures, then all numbers, then every run. `sections` are a heading, a sentence
    (or nothing), and figures; `source` says where the numbers are from, if not from the runs themselves."""
    summary, differing = answers.whole, answers.whole.differences
    problems = [f"{run.name}: {problem}" for run in summary.runs for problem in run.problems]
    troubled = [run for run in summary.runs if run.status != "finished"]
    numbers = _numbers(answers)
    parts = [
        _header(title, answers.asking.question, summary, source),
        the_answer(answers),
        bullets(answers.notes) if answers.notes else "",
        *(section(name, (f"<p>{escaped(words)}</p>" if words else "") + "".join(map(_figure, pictures)))
          for name, words, pictures in sections if words or pictures),
        section("All numbers", numbers) if numbers else "",
        section("Every run", every_run(summary)),
        section("Advice", advice) if (advice := advice_of(summary.runs)) else "",
        section("What differs", _what_differs(differing)),
        section("How it was run", _facts(summary)),
        section("Not finished", _troubled(troubled)) if troubled else "",
        section("Not read", bullets(unread + problems)) if unread or problems else "",
        section("How it is measured", _meanings(summary)),
    ]  # fmt: skip
    made = f'<p class="note">Made by metronome {escaped(version)} on {datetime.now():%Y-%m-%d %H:%M}.</p>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{''.join(parts)}{made}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _numbers(answers: Answers) -> str:
    """The way to each target, the best group of each setting, and all."""
    targeted = targets(answers) if answers.asking.target is not None else ""
    if answers.tune is None:
        return targeted + results(answers.whole)
    words = f"<h3>Of each setting the group with the best {escaped(answers.tune)}</h3>"
    best, every = results(answers.best), results(answers.whole)
    every = f"<details><summary>All groups</summary>{every}</details>" if every else ""
    return targeted + (words + best if best else "") + every


def _header(title: str, question: str, summary: Summary, source: str) -> str:
    runs, groups = summary.runs, len(summary.differences.groups)
    ended = ", ".join(f"{count:,} {status}" for status, count in statuses(runs).items())
    among = f" in {groups:,} groups that differ in more than the seed" if groups > 1 else ""
    asked = f'<p class="question">{escaped(question)}</p>\n' if question else ""
    where = f" {escaped(source)}" if source else ""
    return f'<h1>{escaped(title)}</h1>\n{asked}<p class="note">Runs: {len(runs):,} ({ended}){among}.{where}</p>\n'


def _facts(summary: Summary) -> str:
    runs = summary.runs
    facts = {
        "Experiment": ", ".join(sorted({run.experiment for run in runs})),
        "Common to all": codes(summary.differences.shared) or "the defaults of the experiment",
        "Monitored": _monitored(summary),
        "Run": _when(runs),
        "Versions": "; ".join(_versions(runs)),
        "Code": ", ".join(sorted({str(c)[:12] for run in runs if (c := below(run.result, "git_commit"))})),
    }
    rows = [
        f"<dt>{escaped(name)}</dt><dd>{text if name == 'Common to all' else escaped(text)}</dd>"
        for name, text in facts.items()
        if text
    ]
    return f"<dl>{''.join(rows)}</dl>"


def _monitored(summary: Summary) -> str:
    return (
        f"{summary.monitor}, the {'lower' if summary.best_is_low else 'higher'} the better" if summary.monitor else ""
    )


def _when(runs: Iterable[RunRecord]) -> str:
    times = sorted(began for run in runs if (began := _began(run)) is not None)
    if not times:
        return ""
    return _time(times[0]) + (f" to {_time(times[-1])}" if times[-1] - times[0] > 60 else "")


def _began(run: RunRecord) -> float | None:
    try:
        return (run.folder / CONFIG_FILE).stat().st_mtime
    except OSError:
        return None


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def _versions(runs: Iterable[RunRecord]) -> list[str]:
    found = [below(run.result, "versions") for run in runs]
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
        rows.append(f"<dt><code>{escaped(key)}</code></dt><dd>{codes(map(shown, values[:30]))}{more}</dd>")
    seeds = sorted({run.seed for group in differing.groups for run in group.runs}, key=lambda s: (len(s), s))
    rows.append(f"<dt>seed</dt><dd>{codes(seeds[:30])}{' …' if len(seeds) > 30 else ''}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _troubled(runs: list[RunRecord]) -> str:
    items: list[str] = []
    for run in sorted(runs, key=lambda run: in_order(run.status)):
        why = f": {escaped(run.error)}" if run.error else ""
        done = f" after {run.steps:,} steps" if run.steps else ""
        state = "unfinished (it runs, or was cut off)" if run.status == UNFINISHED else run.status
        items.append(f"<li><strong>{escaped(state)}</strong>{done}{why}<br><code>{escaped(run.name)}</code></li>")
    return f"<ul>{''.join(items)}</ul>"


def _meanings(summary: Summary) -> str:
    rows = [f"<dt>{escaped(c.title)}</dt><dd>{escaped(c.meaning)}</dd>" for c in summary.columns]
    curves = (
        "A batch is what one step (parameter update) sees. Samples and epochs are worked out from steps by each run's "
        "plan, epoch by epoch; seconds are those of the logs, without the time between the starts of one that went on."
    )
    return f'<p class="note">{curves}</p><details><summary>Columns</summary><dl>{"".join(rows)}</dl></details>'


def _figure(picture: Picture) -> str:
    """The figure, and for a phone the one drawn for it."""
    wide, narrow = (base64.b64encode(content).decode() for content in (picture.png, picture.narrow))
    caption = f"<figcaption>{escaped(picture.caption)}</figcaption>" if picture.caption else ""
    source = f'<source media="(max-width: {NARROW_BELOW}px)" srcset="data:image/png;base64,{narrow}">'
    image = f'<img src="data:image/png;base64,{wide}" alt="{escaped(picture.alt)}">'
    return f"<figure><picture>{source}{image}</picture>{caption}</figure>\n"
