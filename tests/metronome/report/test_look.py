"""How figures look: what can be seen on white, where ticks and labels lie, what is drawn once."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text

from metronome.report import report
from metronome.report.figures.axes import axes_that_differ
from metronome.report.figures.labels import label_points, swept_ticks
from metronome.report.figures.style import MOST, NARROW, OTHERS, QUIET, WIDE, brief, figure, look, ordered, scale
from metronome.report.html.style_and_script import STYLE

MakeRun = Callable[..., Path]


def contrast(colour: Any) -> float:
    """Against white, by WCAG 2.1: (1 + 0.05) / (L + 0.05), with the relative luminance L of sRGB; what is transparent
    lies on white."""
    red, green, blue, alpha = to_rgba(colour)
    shares = [1 - alpha + alpha * share for share in (red, green, blue)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 1.05 / (sum(weight * s for weight, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05)


def test_contrast_is_worked_out_right() -> None:
    """Black and white, #777777 (known to be just below 4.5), and the three that fell short."""
    assert contrast("black") == pytest.approx(21)
    assert contrast("white") == pytest.approx(1)
    assert contrast("#777777") == pytest.approx(4.48, abs=0.005)
    assert [round(contrast(c), 2) for c in ("#E69F00", "#56B4E9", "#c4c4c4")] == [2.25, 2.31, 1.74]


def test_every_colour_that_can_be_used() -> None:
    for count in range(1, MOST + 1):
        for one in [*(look(i) for i in range(count)), *ordered(count)]:
            assert contrast(one.colour) >= 3
    assert min(map(contrast, (OTHERS, QUIET))) >= 3
    assert len({str(look(i).colour) for i in range(MOST)}) == MOST


def test_letters_of_the_page() -> None:
    """4.5 to 1, as WCAG 1.4.3 asks of small letters."""
    text = [part.split("#")[1][:6] for part in STYLE.split("color: ")[1:] if part.startswith("#")]
    text += [STYLE.split(f"--{name}: #")[1][:6] for name in ("text", "grey", "blue")]
    assert len(text) == 4
    assert all(contrast(f"#{colour}") >= 4.5 for colour in text)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures of a report, which are made and not drawn."""
    found: list[Figure] = []
    monkeypatch.setattr(
        Figure, "savefig", lambda made, file, **options: (found.append(made), file.write(b"\x89PNG"))[1]
    )
    return found


def seen(made: Figure) -> Iterator[tuple[str, Any]]:
    """The colours of every line, marker and letter."""
    for line in made.findobj(Line2D):
        if line.get_label() != "_grid" and line.axes is not None and line not in grid(line.axes):
            alpha = line.get_alpha()
            if line.get_linestyle() != "None":
                yield "line", to_rgba(line.get_color(), alpha)
            if line.get_marker() not in ("None", None, ""):
                face = to_rgba(line.get_markerfacecolor(), alpha)
                yield "marker", face if face[3] else to_rgba(line.get_markeredgecolor(), alpha)
    for lines in made.findobj(LineCollection):
        if lines.get_label() != "dividers" and lines.axes is not None and lines.axes.get_label() != "<colorbar>":
            for colour in lines.get_colors():
                yield "lines", colour
    for text in made.findobj(Text):
        if text.get_text().strip() and text.get_visible():
            yield "text", to_rgba(text.get_color(), text.get_alpha())


def grid(axes: Any) -> list[Line2D]:
    return [*axes.get_xgridlines(), *axes.get_ygridlines()]


def make_sweep(make_run: MakeRun, make_plan: Callable[..., Any], keys: dict[str, tuple], seeds: int = 2) -> None:
    """Runs with noisy curves of 80 points, by one key or two."""
    noise = np.random.default_rng(0).normal(size=(100, 80)) / 20
    values = [[(key, value)] for key, every in keys.items() for value in every]
    for i, given in enumerate(values):
        for seed in range(seeds):
            size = next((value for key, value in given if key == "data.batch_size"), 4)
            plan = make_plan(num_samples=64, epochs=[(size, 64 // size, 64)] * (80 * size // 64 + 1))
            falling = [2 / (1 + k / (5 + i)) + abs(noise[2 * i + seed, k]) for k in range(80)]
            points = {
                "train/loss": [(k, value, 1000.0 + k) for k, value in enumerate(falling)],
                "val/loss": [(k, value + 0.1, 1000.0 + k) for k, value in enumerate(falling) if k % 2],
            }
            make_run(f"{given}-{seed}".replace("/", "_"), [f"{key}={value}" for key, value in given], seed,
                     config={"data": {"batch_size": size}}, val_loss=min(falling) + 0.1, points=points,
                     the_plan=plan)  # fmt: skip


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"data.batch_size": (1, 2, 4, 8, 16, 32)}, id="a number"),
        pytest.param({"optimizer": tuple("abcdefghij")}, id="more words than are told apart", marks=pytest.mark.slow),
    ],
)
def test_all_that_is_drawn_can_be_seen(
    keys: dict[str, tuple], make_run: MakeRun, make_plan: Callable[..., Any], drawn: list[Figure], tmp_path: Path
) -> None:
    make_sweep(make_run, make_plan, keys)
    report(tmp_path / "runs")
    assert len(drawn) >= 10
    kinds: set[str] = set()
    for made in drawn:
        for kind, colour in seen(made):
            kinds.add(kind)
            assert contrast(colour) >= 3, f"{kind} {colour} of {made.get_suptitle()}"
    assert kinds >= {"line", "marker", "lines", "text"}
    if "data.batch_size" in keys:
        has_a_scale_of_colours(drawn)


def has_a_scale_of_colours(drawn: list[Figure]) -> None:
    """The values of a number stand at its colours; and no legend names them one by one."""
    (made, *_) = [made for made in drawn if "val/loss" in made.get_suptitle() and len(made.axes) > 2]
    (bar,) = [axes for axes in made.axes if axes.get_label() == "<colorbar>"] or [made.axes[-1]]
    assert [label.get_text() for label in bar.get_xticklabels()] == ["1", "2", "4", "8", "16", "32"]
    assert bar.get_xlabel() == "batch size (samples)"
    assert not made.legends


@pytest.mark.parametrize(
    ("sizes", "axes"),
    [
        ((4, 4), ["steps"]),  # samples, epochs and seconds are steps by a factor
        ((4, 8), ["steps", "samples"]),  # epochs are samples by a factor
        ((4, 8, 16), ["steps", "samples"]),
    ],
)
def test_one_of_the_axes_that_look_the_same(sizes: tuple[int, ...], axes: list[str]) -> None:
    """By hand: a batch of b sees b k samples after k steps, of 64 in an epoch; a step takes 0.1 s."""
    steps = np.arange(1.0, 41)
    of = [[{"steps": steps, "samples": steps * b, "epochs": steps * b / 64, "seconds": steps / 10}] for b in sizes]
    assert axes_that_differ(of) == axes


def test_seconds_are_something_else_where_groups_lie_farther_apart_than_runs() -> None:
    steps = np.arange(1.0, 41)

    def runs(*factors: float) -> list[dict[str, np.ndarray]]:
        return [{"steps": steps, "seconds": steps * factor} for factor in factors]

    assert axes_that_differ([runs(0.1, 0.3), runs(0.2, 0.4)]) == ["steps"]
    assert axes_that_differ([runs(0.1, 0.11), runs(0.2, 0.21)]) == ["steps", "seconds"]


def test_a_batch_that_grows_has_samples_of_its_own() -> None:
    """Doubled in the middle: one group, and no factor."""
    samples = np.concatenate([4.0 * np.arange(1, 21), 80 + 8.0 * np.arange(1, 21)])
    one = {"steps": np.arange(1.0, 41), "samples": samples, "epochs": samples / 64, "seconds": np.arange(1.0, 41)}
    assert axes_that_differ([[one]]) == ["steps", "samples"]


@pytest.mark.parametrize("medium", [WIDE, NARROW])
@pytest.mark.parametrize("values", [[1, 2, 8, 32, 128, 512, 1257], [1.0, 3.0], [0.05 * 2**i for i in range(7)]])
def test_ticks_at_the_values_swept(values: list[float], medium: Any) -> None:
    """All of them and nothing else; their numbers in two rows at most, none over another."""
    made, (panel, *_) = figure(1, 3, 2.4, medium=medium)
    panel.plot(values, values)
    scale(panel, "x", values, 5)
    swept_ticks(panel, values)
    made.draw_without_rendering()
    assert panel.get_xticks().tolist() == sorted(values)
    assert len(panel.get_xticks(minor=True)) == 0
    labels = [label for label in panel.get_xticklabels() if label.get_text()]
    assert len(labels) == len(values)
    for row in (0, 1):
        boxes = [la.get_window_extent() for la in labels if la.get_text().startswith("\n") == bool(row)]
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_labels_cover_no_point() -> None:
    made, (panel,) = figure(1, 1, 3.0)
    points = [(10.0, 1.0, "first"), (11.0, 1.0, "second"), (10.5, 1.05, "third"), (30.0, 3.0, "last")]
    panel.plot([x for x, _, _ in points], [y for _, y, _ in points], "o", markersize=7)
    panel.margins(0.14)
    panel.autoscale_view()
    label_points(panel, points)
    made.draw_without_rendering()
    labels = [text for text in panel.texts if isinstance(text, Annotation)]
    boxes = [label.get_window_extent() for label in labels]
    places = panel.transData.transform([(x, y) for x, y, _ in points])
    assert len(boxes) == len(points)
    assert not any(box.contains(*place) for box in boxes for place in places)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_equal_results_are_drawn_as_equal() -> None:
    """1.523739 and 1.523736 are one number, and lie on one line."""
    _, (panel,) = figure(1, 1, 3.0)
    values = [1.523739, 1.523736]
    panel.plot([1, 2], values)
    scale(panel, "y", values, 8)
    low, high = panel.get_ylim()
    assert abs(values[0] - values[1]) / (high - low) < 0.001


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_narrow_figure_has_one_panel_a_row(count: int) -> None:
    wide, panels = figure(2, 3, 5.0, medium=WIDE, count=count)
    narrow, below = figure(2, 3, 5.0, medium=NARROW, count=count)
    assert len(panels) == len(below) == count
    assert [panel.get_subplotspec().colspan.start for panel in below] == [0] * count  # pyright: ignore
    assert (wide.get_size_inches()[0], narrow.get_size_inches()[0]) == (9.2, 3.6)


@pytest.mark.parametrize(
    ("value", "written"), [(1000, "1,000"), (10_000, "10k"), (2e6, "2M"), (0.5, "0.5"), (100_000, "100k")]
)
def test_brief(value: float, written: str) -> None:
    assert brief(value) == written
