"""How figures look: colours that all eyes tell apart, and lines and markers that tell the same without colours. Each is
drawn twice, for a wide window and for a phone."""

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

MOST = 8  # groups told apart in a figure; others are drawn in grey
_LONGEST = 90  # letters of a label
OTHERS, QUIET = "#8a8a8a", "#555555"  # of other groups; of what is no data
# All have a contrast of 3 to 1 against white at least, as WCAG 2.1 (1.4.11) asks of what must be seen. Okabe and Ito,
# https://jfly.uni-koeln.de/color, with darker ones in the place of those that are too light for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#C2569B", "#000000", "#8C510A", "#6A51A3", "#5D6670")
_ORDERED, _FIRST, _LAST = "inferno", 0.1, 0.66  # a colour scale from dark to light, as far as it can be seen on white
_LEAST_SPAN = 0.01  # of an axis, as a part of its largest value: what is as good as equal is drawn so
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
class Medium:
    """What a figure is drawn for.

    Attributes:
        width: in inches; letters have the same size in all.
        dpi: pixels an inch.
        columns: panels in a row at most.
        letters: in a line that goes across it.
    """

    width: float
    dpi: int
    columns: int
    letters: int


WIDE = Medium(9.2, 150, 4, 105)
NARROW = Medium(3.6, 200, 1, 42)  # 358 of the 390 pixels of a phone's width: 100 an inch, two dots a pixel


@dataclass(frozen=True)
class Look:
    """How a group is drawn."""

    colour: Any
    line: Any
    marker: str


@dataclass(frozen=True)
class Picture:
    """A figure as it goes into the report: a file's name without its end, what it shows, and the PNG itself, for a wide
    window and for a narrow one."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    narrow: bytes


def picture(name: str, title: str, caption: str, alt: str, draw: Callable[[Medium], Figure]) -> Picture:
    """Drawn for both windows."""
    wide, narrow = (png(headline(draw(medium), title, medium)) for medium in (WIDE, NARROW))
    return Picture(name, title, caption, alt, wide, narrow)


def look(i: int) -> Look:
    """The i-th way to draw something, from the first on again after `MOST`."""
    return Look(_COLOURS[i % MOST], _LINES[i % MOST], _MARKERS[i % MOST])


def ordered(count: int) -> list[Look]:
    """The ways to draw the values of a number, from dark to light as they ascend: one line and one marker for all."""
    colours = colormaps[_ORDERED]
    places = [_FIRST + (_LAST - _FIRST) * i / max(count - 1, 1) for i in range(count)]
    return [replace(look(0), colour=colours(place)) for place in places]


def figure(
    rows: int,
    columns: int,
    height: float,
    labels: Sequence[str] = (),
    medium: Medium = WIDE,
    count: int | None = None,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its `count` panels; below is room for a legend of `labels`. `height` is that of the panels in
    a wide one; a narrow one has them one below the other."""
    count = rows * columns if count is None else count
    if columns > medium.columns:
        height, rows, columns = count * min(max(height / rows, 2.3), 3.2), count, 1
    legend_height = 0.22 * -(-len(labels) // _legend_columns(labels, medium))
    with rc_context(_SETTINGS):
        size = (medium.width, height + legend_height + (0.0 if medium is WIDE else 0.3))
        layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.06)  # inches
        made = Figure(figsize=size, dpi=medium.dpi, layout=layout, facecolor="white")
        FigureCanvasAgg(made)
        panels = list(made.subplots(rows, columns, squeeze=False, **options).flat)
    for panel in panels[count:]:
        panel.set_visible(False)
    return made, panels[:count]


def file_name(kind: str, of: str) -> str:
    """The name of a figure's file, without its end, in letters that every system takes."""
    return f"{kind}_" + "".join(letter if letter.isalnum() else "_" for letter in of)


def png(made: Figure) -> bytes:
    """Drawn, as a file."""
    content = io.BytesIO()
    with rc_context(_SETTINGS):
        made.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def headline(made: Figure, title: str, medium: Medium = WIDE) -> Figure:
    """The title of the whole figure."""
    with rc_context(_SETTINGS):
        made.suptitle("\n".join(textwrap.wrap(title, int(0.88 * medium.letters))))
    return made


def legend(made: Figure, handles: Sequence[Any], labels: Sequence[str], medium: Medium = WIDE) -> None:
    """Below the panels, where it covers nothing."""
    if not handles:
        return
    longest = min(_LONGEST, medium.letters - 6)
    short = [label if len(label) <= longest else label[: longest - 2] + "…" for label in labels]
    with rc_context(_SETTINGS):
        columns = _legend_columns(labels, medium)
        made.legend(handles, short, loc="outside lower center", ncols=columns, handlelength=3.2)


def colour_scale(made: Figure, panels: Sequence[Axes], name: str, values: Sequence[str], medium: Medium = WIDE) -> None:
    """The colours of an ordered number below the panels, from its least value to its largest."""
    count = len(values)
    colours = ListedColormap([one.colour for one in ordered(count)])
    with rc_context(_SETTINGS):
        height = made.get_size_inches()[1]
        mappable = ScalarMappable(BoundaryNorm([i - 0.5 for i in range(count + 1)], count), colours)
        where = {"location": "bottom", "fraction": 0.24 / height, "pad": 0.1 / height, "aspect": 5 * medium.width}
        bar = made.colorbar(mappable, ax=list(panels), ticks=range(count), shrink=0.9, drawedges=True, **where)
        bar.dividers.set_color("white")
        bar.outline.set_visible(False)  # pyright: ignore
        crowded = sum(len(value) + 2 for value in values) > 0.9 * medium.letters
        bar.ax.set_xticks(range(count), values, rotation=35 if crowded else 0, ha="right" if crowded else "center")
        bar.ax.tick_params(length=0)
        bar.ax.set_xlabel(name)


def _legend_columns(labels: Sequence[str], medium: Medium) -> int:
    longest = max(map(len, labels), default=0)
    return max(1, min(4, len(labels), medium.letters // (longest + 8)))


def scale(panel: Axes, which: str, values: list[float], span: float) -> None:
    """A logarithmic axis where positive values span more than `span` times the least."""
    axis = panel.xaxis if which == "x" else panel.yaxis
    is_log = bool(values) and min(values) > 0 and max(values) > span * min(values)
    if is_log:
        (panel.set_xscale if which == "x" else panel.set_yscale)("log")
        axis.set_major_formatter(FuncFormatter(brief))
        wide = room(panel)[0]  # inches, and decades that may have numbers between the powers
        decades = 2.3 if which == "y" or wide > 3 else 1.8 if wide > 2.6 else 1.3
        axis.set_minor_formatter(
            FuncFormatter(lambda value, _: _between_powers(value, tuple(axis.get_view_interval()), decades))
        )
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(plain))
        finite = [value for value in values if math.isfinite(value)]
        if finite and max(finite) - min(finite) < (least := _LEAST_SPAN * max(map(abs, finite))):
            middle = (max(finite) + min(finite)) / 2
            (panel.set_xlim if which == "x" else panel.set_ylim)(middle - least / 2, middle + least / 2)


def plain(value: float, position: int | None = None) -> str:
    """A number as one would write it: 12,500; 0.05; 2e-06."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return f"{value:,.6g}"


def brief(value: float, position: int | None = None) -> str:
    """A number at an axis: thousands as 10k, so that decades do not run into each other."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if 10 * size <= abs(value) < 1e12 or (size > 1e3 and size <= abs(value) < 1e12):
            return f"{value / size:.6g}{letter}"
    return plain(value)


def room(panel: Axes) -> tuple[float, float]:
    """About how many inches a panel is wide and high, before its figure is laid out."""
    figure, grid = panel.figure, panel.get_gridspec()
    assert figure is not None
    assert grid is not None
    width, height = figure.get_size_inches()  # pyright: ignore
    rows, columns = grid.get_geometry()
    return max(width / columns - 0.75, 0.5), max(height / rows - 0.9, 0.5)


def _between_powers(value: float, ends: tuple[float, ...], decades: float) -> str:
    """Of the ticks between powers of ten those at 2 and 5, on an axis so short that it may have but one power."""
    low, high = ends
    if not 0 < low < high < 10**decades * low or value <= 0:
        return ""
    mantissa = value / 10 ** math.floor(math.log10(value))
    return brief(float(f"{value:.3g}")) if round(mantissa, 6) in (2, 5) else ""
