"""How figures look: colours that all eyes tell apart, and lines and markers that tell the same without colours."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

MOST = 8  # groups told apart in a figure; others are drawn in grey
OTHERS = "#c4c4c4"
_DPI = 150
_LONGEST = 90  # letters of a label
# Okabe and Ito, https://jfly.uni-koeln.de/color, with a purple in the place of their yellow, too light for lines
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F3C8D")
_LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (9, 2, 1, 2, 1, 2)),
                           (0, (3, 1, 1, 1)), (0, (1, 3)))  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 10.5, "axes.titlesize": 11, "axes.labelsize": 10.5,
    "figure.titlesize": 12.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 10, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a group is drawn."""

    colour: Any
    line: Any
    marker: str


@dataclass(frozen=True)
class Picture:
    """A figure as it goes into the report: a file's name without its end, what it shows, and the PNG itself."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def look(i: int) -> Look:
    """The i-th way to draw something, from the first on again after `MOST`."""
    return Look(_COLOURS[i % MOST], _LINES[i % MOST], _MARKERS[i % MOST])


def figure(
    rows: int, columns: int, height: float, labels: Sequence[str] = (), **options: Any
) -> tuple[Figure, list[Axes]]:
    """An empty figure 9.2 inches wide, as wide as a page, and its panels; below is room for a legend of `labels`."""
    legend_height = 0.22 * -(-len(labels) // _legend_columns(labels))
    with rc_context(_SETTINGS):
        made = Figure(figsize=(9.2, height + legend_height), dpi=_DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(made)
        panels = made.subplots(rows, columns, squeeze=False, **options)
    return made, list(panels.flat)


def file_name(kind: str, of: str) -> str:
    """The name of a figure's file, without its end, in letters that every system takes."""
    return f"{kind}_" + "".join(letter if letter.isalnum() else "_" for letter in of)


def png(made: Figure) -> bytes:
    """Drawn, as a file."""
    content = io.BytesIO()
    with rc_context(_SETTINGS):
        made.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def headline(made: Figure, title: str) -> None:
    """The title of the whole figure."""
    with rc_context(_SETTINGS):
        made.suptitle(title)


def legend(made: Figure, handles: list[Any], labels: list[str]) -> None:
    """Below the panels, where it covers nothing."""
    if not handles:
        return
    short = [label if len(label) <= _LONGEST else label[: _LONGEST - 2] + "…" for label in labels]
    with rc_context(_SETTINGS):
        made.legend(handles, short, loc="outside lower center", ncols=_legend_columns(labels), handlelength=3.2)


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return max(1, min(4, len(labels), 105 // (longest + 8)))


def scale(panel: Axes, which: str, values: list[float], span: float) -> None:
    """A logarithmic axis where positive values span more than `span` times the least."""
    axis = panel.xaxis if which == "x" else panel.yaxis
    is_log = bool(values) and min(values) > 0 and max(values) > span * min(values)
    if is_log:
        (panel.set_xscale if which == "x" else panel.set_yscale)("log")
        axis.set_major_formatter(FuncFormatter(plain))
        axis.set_minor_formatter(FuncFormatter(lambda value, _: _between_powers(value, *axis.get_view_interval())))
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(plain))


def plain(value: float, position: int | None = None) -> str:
    """A number as one would write it: 12,500; 0.05; 2e-06."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return f"{value:,.6g}"


def _between_powers(value: float, low: float, high: float) -> str:
    """Of the ticks between powers of ten those at 2 and 5, on an axis so short that it may have but one power."""
    if not 0 < low < high < 200 * low or value <= 0:
        return ""
    mantissa = value / 10 ** math.floor(math.log10(value))
    return plain(float(f"{value:.3g}")) if round(mantissa, 6) in (2, 5) else ""
