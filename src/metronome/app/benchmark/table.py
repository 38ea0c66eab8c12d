"""A case that was measured, as text of at most 100 columns, and as a table in Markdown."""

from collections.abc import Sequence

from metronome.app.benchmark.measuring import Measured, Row

_NAME, _WIDTH = 30, 100


def as_text(measured: Measured) -> str:
    """Title, a line for each way, and what follows from them."""
    case, heads = measured.case, _heads(measured)
    cells = [_cells(measured, row) for row in measured.rows]
    name_width = max(_NAME, *(len(row.way) for row in measured.rows)) + 1
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    title = f"{case.name}: {case.title}"
    lines = [title if len(title) <= _WIDTH else f"{title[: _WIDTH - 2]}…"]
    lines.append("-" * min(len(lines[0]), _WIDTH))
    lines.append(_line("", heads, name_width, widths))
    lines += [
        _line(row.way, row_cells, name_width, widths) for row, row_cells in zip(measured.rows, cells, strict=True)
    ]
    return "\n".join([*lines, *measured.lines])


def as_markdown(measured: Measured) -> str:
    """The same for a page."""
    case, heads = measured.case, _heads(measured)
    lines = [f"**{case.name}**: {case.title}", "", f"| {' | '.join(['', *heads])} |", f"|---|{'---:|' * len(heads)}"]
    lines += [f"| {' | '.join([row.way, *_cells(measured, row)])} |" for row in measured.rows]
    lines += ["", *(f"{line[0].upper()}{line[1:]}.  " for line in measured.lines)]
    return "\n".join(lines).rstrip()


def _line(name: str, cells: Sequence[str], name_width: int, widths: Sequence[int]) -> str:
    padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"{name:{name_width}}{'  '.join(padded)}".rstrip()


def _heads(measured: Measured) -> list[str]:
    case = measured.case
    added = ["added"] if case.shows_added else []
    remark = [case.remark] if case.remark else []
    return [case.unit, "lowest - highest", *added, *(f"x {name}" for name in case.ratios), *remark]


def _cells(measured: Measured, row: Row) -> list[str]:
    case = measured.case
    cells = [number(row.median), f"{number(min(row.values))} - {number(max(row.values))}"] if row.values else ["", ""]
    if case.shows_added:
        cells.append("" if row.added is None else number(row.added))
    cells += ["" if ratio is None else f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.1g}" for ratio in row.ratios]
    return [*cells, *([row.remark] if case.remark else [])]


def number(value: float) -> str:
    """In as many digits as mean something: 1,234; 56.7; 0.89."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
