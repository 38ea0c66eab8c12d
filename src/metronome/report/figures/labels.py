"""Words in panels: the ticks of swept values, and labels beside points, none over another."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from metronome.report.figures.style import plain, room

_SIZE = 9.5  # points
_LETTER = 0.62  # of the size: the width of a letter
Box = tuple[float, float, float, float]  # left, bottom, right, top in parts of the panel


def swept_ticks(panel: Axes, values: Sequence[float], shown: Sequence[str] | None = None) -> None:
    """A tick at each swept value, as many as there are, and its number where it fits: in a second row where it would
    stand on its neighbour, not at all where that is full too."""
    places = sorted(set(values))
    words = list(shown) if shown is not None else [plain(value) for value in places]
    width, _ = room(panel)
    ends = [float("-inf")] * 2
    rows: list[str] = []
    for place, word in zip(places, words, strict=True):
        at, half = _in_panel(panel, place, None)[0], (len(word) + 0.8) * _LETTER * _SIZE / 144 / width
        row = next((i for i in range(2) if at - half >= ends[i]), None)
        rows.append("" if row is None else "\n" * row + word)
        if row is not None:
            ends[row] = at + half
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(places, rows)


def label_points(
    panel: Axes, points: Sequence[tuple[float, float, str]], around: Sequence[tuple[float, float]] = ()
) -> None:
    """A label beside each point (x, y, words), where it covers neither a point, nor one of those `around` them,
    nor another label, if there is such a place."""
    width, height = room(panel)
    high = 1.25 * _SIZE / 72 / height
    at = [_in_panel(panel, x, y) for x, y, _ in points]
    taken = [_square(place, 0.055, width, height) for place in at]
    taken += [_square(_in_panel(panel, x, y), 0.03, width, height) for x, y in around]
    for (x, y, words), (left, bottom) in zip(points, at, strict=True):
        wide = _LETTER * _SIZE * len(words) / 72 / width
        gap_x, gap_y = 0.08 / width, 0.07 / height
        ways: list[tuple[float, float, str, str]] = [
            (gap_x, 0.0, "left", "center"), (0.0, gap_y, "center", "bottom"), (0.0, -gap_y, "center", "top"),
            (-gap_x, 0.0, "right", "center"), (gap_x / 2, gap_y, "left", "bottom"), (gap_x / 2, -gap_y, "left", "top"),
            (-gap_x / 2, gap_y, "right", "bottom"), (-gap_x / 2, -gap_y, "right", "top"),
        ]  # fmt: skip
        boxes = [_box(left + dx, bottom + dy, wide, high, ha, va) for dx, dy, ha, va in ways]
        covered = [sum(_overlap(box, other) for other in taken) + 2 * _outside(box) for box in boxes]
        best = covered.index(min(covered))
        dx, dy, ha, va = ways[best]
        taken.append(boxes[best])
        offset = (72 * dx * width, 72 * dy * height)
        panel.annotate(words, (x, y), offset, textcoords="offset points", ha=ha, va=va, fontsize=_SIZE)


def _in_panel(panel: Axes, x: float, y: float | None) -> tuple[float, float]:
    """Where a point lies, in parts of the panel."""
    point = panel.transData.transform((x, panel.get_ylim()[0] if y is None else y))
    at = panel.transAxes.inverted().transform(point)
    return float(at[0]), float(at[1])


def _square(at: tuple[float, float], half: float, width: float, height: float) -> Box:
    """So many inches around a place."""
    return at[0] - half / width, at[1] - half / height, at[0] + half / width, at[1] + half / height


def _box(x: float, y: float, wide: float, high: float, ha: str, va: str) -> Box:
    left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[ha] * wide
    bottom = y - {"bottom": 0.0, "center": 0.5, "top": 1.0}[va] * high
    return left, bottom, left + wide, bottom + high


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: Box) -> float:
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return whole - _overlap(box, (0.0, 0.0, 1.0, 1.0))
