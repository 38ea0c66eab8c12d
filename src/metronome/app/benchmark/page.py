"""The page and its figure: what was measured, on what, and with which command."""

import re
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from metronome.app.benchmark.asked import Asked
from metronome.app.benchmark.measuring import Measured
from metronome.app.benchmark.table import as_markdown, number
from metronome.report.figures.style import figure, headline, plain, png
from metronome.units import InputError

_BEGIN, _END = "<!-- measured: written by --page -->", "<!-- measured: end -->"
_GREY, _OTHER, _OURS = "#8a8a8a", "#D55E00", "#0072B2"  # each 3:1 or more against white


def write_page(asked: Asked, around: Mapping[str, str], found: Sequence[Measured]) -> None:
    """Put the tables between the page's marks, and the figure where the page shows it.

    Raises:
        InputError: if the page has no such marks.
    """
    before, pattern = asked.page_file.read_text(), f"{_BEGIN}.*{_END}"
    if not re.search(pattern, before, re.DOTALL):
        raise InputError(f"{asked.page_file} has no place for what was measured: {_BEGIN} and {_END}")
    block = _block(asked, around, found)
    asked.page_file.write_text(re.sub(pattern, lambda _: f"{_BEGIN}\n{block}\n{_END}", before, flags=re.DOTALL))
    if drawn := _drawn(found):
        asked.figure_file.write_bytes(steps_figure(drawn))


def _block(asked: Asked, around: Mapping[str, str], found: Sequence[Measured]) -> str:
    up = "/".join([".."] * len(asked.page_file.relative_to(asked.project).parts[:-1]))
    lines = ["```", asked.command, "```", "", *(f"- {name}: {value}" for name, value in around.items()), ""]
    if drawn := _drawn(found):
        where = asked.figure_file.relative_to(asked.project)
        lines += [f"![{_in_words(drawn)}]({up}/{where})", ""]
    return "\n".join([*lines, "\n\n".join(map(as_markdown, found))])


def _drawn(found: Sequence[Measured]) -> list[Measured]:
    """The cases of which a bar says what is to be seen: what is added to a bare loop."""
    return [measured for measured in found if measured.case.shows_added and measured.case.unit == "us a step"]


def _in_words(drawn: Sequence[Measured]) -> str:
    """What the figure shows, for who does not see it."""
    return f"Microseconds a step of {', '.join(measured.case.name for measured in drawn)}: the numbers of the tables"


def steps_figure(drawn: Sequence[Measured]) -> bytes:
    """A panel for each case, as a PNG: a bar for each way, grey as far as the bare loop goes, the rest in colour."""
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    most = max(len(measured.rows) for measured in drawn)
    made, panels = figure(rows, columns, 0.5 + rows * (0.75 + 0.24 * most))
    for panel, measured in zip(panels, drawn, strict=False):
        _draw(panel, measured)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    headline(made, "Microseconds a step: the bare loop in grey, what is added to it in colour")
    return png(made)


def _draw(panel: Axes, measured: Measured) -> None:
    rows = [row for row in measured.rows if row.values]
    for i, row in enumerate(rows):
        added = max(row.added or 0.0, 0.0)
        panel.barh(i, row.median - added, color=_GREY)
        panel.barh(i, added, left=row.median - added, color=_OURS if row.way.startswith("Metronome") else _OTHER)
        panel.plot([min(row.values), max(row.values)], [i, i], color="black", linewidth=1)
        plus = "" if row.added is None else f" ({'+' if row.added > 0 else ''}{number(row.added)})"
        panel.text(max(row.values), i, f" {number(row.median)}{plus}", va="center", fontsize=8.5)
    panel.set_yticks(range(len(rows)), [row.way for row in rows], fontsize=8.5)
    panel.invert_yaxis()
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.xaxis.set_major_formatter(FuncFormatter(plain))
    panel.set_xlim(0, 1.75 * max(max(row.values) for row in rows))
    panel.grid(visible=False, axis="y")
    panel.set_title(measured.case.name, loc="left", fontweight="bold")
