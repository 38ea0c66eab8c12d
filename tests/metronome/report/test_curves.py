"""Curves as they are drawn: means over seeds, fewer points, running means."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from metronome.report.differences import differences
from metronome.report.figures.curves import curve_pictures
from metronome.report.figures.lines import Line, line_of, running_mean, smoothed, thin
from metronome.report.figures.roles import roles_of
from metronome.report.figures.style import MOST, plain
from metronome.report.records import read_runs
from metronome.report.summary import Summary, summarize


def summary_of(root: Path) -> Summary:
    runs, _ = read_runs([root])
    return summarize(runs, differences(runs))


def test_the_mean_over_seeds(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """At the steps that all have: the third run was stopped after its second validation."""
    points = [
        [(2, 4.0, 1010.0), (5, 2.0, 1020.0), (8, 1.0, 1030.0)],
        [(2, 6.0, 1012.0), (5, 5.0, 1024.0), (8, 1.0, 1036.0)],
        [(2, 2.0, 1011.0), (5, 2.0, 1022.0)],
    ]
    for seed, one in enumerate(points):
        make_run(str(seed), seed=seed, points={"val/loss": one})
    runs, _ = read_runs([tmp_path / "runs"])
    line = line_of(runs, [run.curves["val/loss"] for run in runs])
    assert line.xs["steps"].tolist() == [3, 6]
    assert line.xs["samples"].tolist() == [10, 20]
    assert line.xs["epochs"].tolist() == [1, 2]
    assert line.xs["seconds"].tolist() == [10, 20]  # 40 of training in 12 steps, without the validations
    assert line.values.tolist() == [4, 3]
    assert line.low is not None
    assert line.high is not None
    assert (line.low.tolist(), line.high.tolist()) == ([2, 2], [6, 5])


def test_thin() -> None:
    line = Line({"steps": np.arange(10.0)}, np.arange(10.0) ** 2)
    few = thin(line, most=5)
    assert few.xs["steps"].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert few.values.tolist() == [0.5, 6.5, 20.5, 42.5, 72.5]
    assert thin(line, most=10) is line


@pytest.mark.parametrize("count", [401, 799, 1000, 12_345])
def test_thin_keeps_the_mean(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    few = thin(Line({"steps": np.arange(float(count))}, values))
    assert len(few.values) == 400
    sizes = np.diff(np.append(np.linspace(0, count, 401).astype(int)[:-1], count))
    assert (few.values * sizes).sum() == pytest.approx(values.sum())


def test_running_mean() -> None:
    """Worked by hand: the ends are as logged, and windows are as wide to both sides."""
    values = [1.0, 2.0, 6.0, 3.0, 5.0, 4.0, 9.0]
    expected = [1.0, 2.0, 11 / 3, 14 / 3, 4.0, 6.0, 9.0]
    assert running_mean(np.array(values), 3).tolist() == pytest.approx(expected)


def test_a_smoothed_curve_begins_where_it_was_logged() -> None:
    """2.11 at first, then a fast fall: a window on the steps drew it at 0.69. A straight line stays as it is."""
    steps = np.arange(5.0, 2001.0, 5)
    falling = 2.2 * (steps / 4) ** -0.5
    drawn = smoothed(falling)
    assert (drawn[0], drawn[-1]) == (falling[0], falling[-1])
    assert np.abs(drawn / falling - 1).max() < 0.05
    assert np.abs(running_mean(falling, len(steps) // 10) / falling - 1)[1:].max() > 0  # it is a mean all the same
    assert smoothed(3 - steps / 1000) == pytest.approx(3 - steps / 1000)
    noise = np.random.default_rng(0).normal(size=400)
    assert smoothed(noise)[50:350].std() < 0.4 * noise.std()


def test_which_groups_are_told_apart(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Of 15 numbers 8 evenly spread ones, of 15 words the 8 best."""
    for i in range(15):
        make_run(f"numbers/{i}", [f"+x.a={i}"], val_loss=1.0 + i % 4, config={"x": {"a": i}})
        make_run(f"words/{i}", [f"+x.a=w{i:02}"], val_loss=20.0 - i, config={"x": {"a": f"w{i:02}"}})
    numbers, words = (roles_of(summary_of(tmp_path / "runs" / name)) for name in ("numbers", "words"))
    assert [group.label for group, _ in numbers.looks] == [f"a={i}" for i in (0, 2, 4, 6, 8, 10, 12, 14)]
    assert [group.label for group, _ in words.looks] == [f"a=w{i:02}" for i in range(7, 15)]
    for roles in (numbers, words):
        assert (len(roles.others), len(roles.looks)) == (15 - MOST, MOST)
        assert "the others are grey" in roles.why
    looks = [(str(look.line), look.marker, str(look.colour)) for _, look in words.looks]
    assert all(len(set(kind)) == MOST for kind in zip(*looks, strict=True)), "told apart in black and white too"
    # Values of a number are ordered: one marker, one line, and colours that get lighter from value to value.
    assert len({(str(look.line), look.marker) for _, look in numbers.looks}) == 1
    lightness = [sum(look.colour[:3]) for _, look in numbers.looks]
    assert lightness == sorted(set(lightness))
    assert (numbers.key, words.key) == ("x.a", None)
    assert numbers.scale() == [str(i) for i in (0, 2, 4, 6, 8, 10, 12, 14)]


@pytest.mark.usefixtures("undrawn")
def test_a_figure_for_what_most_runs_have(make_run: Callable[..., Path], tmp_path: Path) -> None:
    curve = [(2, 1.0, 1001.0), (5, 0.5, 1002.0)]
    for seed in range(3):
        tags = {"val/loss": curve, "epoch": curve, "lr": curve} | ({"rare": curve} if seed == 0 else {})
        tags |= {"momentum": curve, "momentum_epoch": curve, "lr/constant": [(step, 0.1, t) for step, _, t in curve]}
        make_run(str(seed), seed=seed, points=tags | {"test/loss": curve, "single": curve[:1]})
    make_run("without", seed=9, points={})
    assert [p.name for p in curve_pictures(summary_of(tmp_path / "runs"))] == [
        "curves_val_loss",
        "curves_momentum",
        "curves_lr",
    ], "not a second time as the mean of an epoch, and no rate that is constant"


@pytest.mark.usefixtures("undrawn")
def test_a_batch_that_grows_has_a_figure(make_run: Callable[..., Path], make_plan: Callable, tmp_path: Path) -> None:
    make_run("a", the_plan=make_plan(epochs=[(4, 3, 10), (8, 2, 10)]))
    assert "curves_batch_size" in [p.name for p in curve_pictures(summary_of(tmp_path / "runs"))]


@pytest.mark.parametrize("bad", [float("nan"), 1e38, 0.0])
def test_values_of_all_kinds_are_drawn(bad: float, make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", points={"train/loss": [(i, bad if i else 1.0, 1000.0 + i) for i in range(5)]})
    make_run("b", points={"train/loss": [(i, bad, 1000.0) for i in range(5)]}, seed=1)
    (picture,) = curve_pictures(summary_of(tmp_path / "runs"))
    assert picture.png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (12_500, "12,500"), (0.05, "0.05"), (2e-6, "2e-6"), (3e6, "3e6"), (1.5e12, "1.5e12"), (-0.25, "-0.25")],
)
def test_plain(value: float, written: str) -> None:
    assert plain(value) == written
