"""What a sweep says: a line for each job, the best of them at the end. Every line has 80 columns at most; what does not
fit is shortened, but for the names of folders, which are to be copied."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from metronome.app.sweeps.place import Place, label
from metronome.runs.best import Best
from metronome.runs.folders import relative

COLUMNS = 80
_LEAST_LABEL = 8


def job_line(place: Place, own: Sequence[str], content: dict[str, Any], end: str) -> str:
    """A job that has ended well: its number, its values, its result; `end` is the last word. Metrics of the test are
    left out from the last on, and the values cut, where all would be too long."""
    facts = [f"{fact:{len(fact.rpartition(' ')[0]) + 8}}" for fact in results(content)]  # numbers of up to 7 letters
    text = label(own, place.names)
    for count in range(len(facts), -1, -1):
        rest = "  ".join([*facts[:count], end])
        room = COLUMNS - len(place.text) - 2 - len(rest) - (2 if text else 0)
        if len(text) <= room or (count <= 1 and room >= _LEAST_LABEL):
            break
    text = text if len(text) <= room else f"{text[: max(room - 1, 0)]}…"
    padded = f"{text:{min(place.width, room)}}" if text and room > 0 else text
    return "  ".join(word for word in (place.text, padded, rest) if word)[:COLUMNS]


def failed_lines(place: Place, own: Sequence[str], words: str, folder: Path) -> str:
    """A job that has failed: `words` say why; then its folder."""
    start = "  ".join(word for word in (place.text, label(own, place.names), words) if word)
    indent = " " * (len(place.text) + 2)
    lines = wrap(start, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    lines[0] = start[: len(lines[0])]  # with the spaces that are there
    return "\n".join([*lines, f"{indent}{relative(folder)}"])


def results(content: dict[str, Any]) -> list[str]:
    """What a run came to, from its result.json: the best value, then what the test has logged."""
    best = content["best"]
    first = [] if best is None else [f"{best['monitor']} {float(best['value']):.4g}"]
    return [*first, *tested(content)]


def tested(content: dict[str, Any]) -> list[str]:
    """What the test has logged, under whatever names."""
    metrics = content["metrics"]
    names = content.get("tested")
    if names is None:  # of an earlier version
        names = [name for name in metrics if name.startswith(("test/", "test_"))]
    return [f"{name} {float(metrics[name]):.4g}" for name in sorted(names) if name in metrics]


def seconds(content: dict[str, Any]) -> str:
    return f"{content['seconds']['fit']:,.1f} s"


def best_lines(sweep: Path, best: Best, of: str) -> list[str]:
    """`of`: of how many of what, such as `4 runs`."""
    values = " ".join(best.overrides)
    head = f"best of {of}: " if values or best.run else f"{of}: "  # nothing but the seed differs
    found = f"{best.monitor} {best.mean:.4g}"
    if best.run is None and len(best.values) > 1:
        low, high = min(best.values), max(best.values)
        found += f", mean of {len(best.values)} seeds ({low:.4g} to {high:.4g})"
    line = f"{head}{values}  {found}" if values else f"{head}{found}"
    if len(line) <= COLUMNS:
        lines = [line]
    else:
        values = wrap(values, COLUMNS - len(head), break_long_words=False, break_on_hyphens=False)
        lines = [f"{head if i == 0 else ' ' * len(head)}{text}" for i, text in enumerate([*values, found])]
    if best.run is not None and best.run != sweep:
        lines.append(f"{'its folder':11}{best.run.relative_to(sweep)}")
    return lines


def report_lines(sweep: Path, word: str = "report") -> list[str]:
    """The command for the report, ready to copy."""
    command = f"python scripts/report.py {shlex.quote(relative(sweep))}"
    return [f"{word:11}{command}"] if 11 + len(command) <= COLUMNS else [word, command]
