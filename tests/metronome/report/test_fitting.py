"""Training against validation: the marks, and what is shown of many groups."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from metronome.report.differences import differences
from metronome.report.figures.fitting import MOST_PANELS, both, fitting_picture
from metronome.report.figures.style import Picture
from metronome.report.records import read_runs
from metronome.report.summary import Summary, summarize


def summary_of(root: Path) -> Summary:
    runs, _ = read_runs([root])
    return summarize(runs, differences(runs))


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stands over the panels."""
    found: list[str] = []
    before = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **o: (found.append(text), before(self, text, **o))[1])
    return found


def test_one_group(make_run: Callable[..., Path], tmp_path: Path, titles: list[str]) -> None:
    """val/loss is 1, 0.5, 0.25, 0.5 after 1, 2, 3 and 4 epochs of 3 steps."""
    make_run("a")
    picture = fitting_picture(summary_of(tmp_path / "runs"))
    assert isinstance(picture, Picture)
    assert picture.png.startswith(b"\x89PNG")
    assert titles == ["least 0.25\nat epoch 3; 0.5 at the end"] * 2  # for a wide window, and for a narrow one


def test_seeds_are_one_group(make_run: Callable[..., Path], tmp_path: Path, titles: list[str]) -> None:
    """The mean of 0.2 and 0.4, each the least of a run, as in all tables."""
    for seed, loss in enumerate((0.2, 0.4)):
        points = [(2, 9.0, 1010.0), (5, loss, 1020.0), (8, loss, 1030.0), (11, 2 * loss, 1040.0)]
        train = [(step, 0.1, 1001.0 + step) for step in (2, 5, 8, 11)]
        make_run(f"{seed}", seed=seed, points={"train/loss_epoch": train, "val/loss": points})
    picture = fitting_picture(summary_of(tmp_path / "runs"))
    assert picture is not None
    assert titles == ["least 0.3 ± 0.14, n = 2\nat epoch 2; 0.6 at the end"] * 2


def test_many_groups(make_run: Callable[..., Path], tmp_path: Path, undrawn: None, titles: list[str]) -> None:
    for i in range(8):
        make_run(f"{i}", [f"optimizer.lr={i + 1}"], config={"optimizer": {"lr": i + 1}})
    picture = fitting_picture(summary_of(tmp_path / "runs"))
    assert picture is not None
    assert len(titles) == 2 * MOST_PANELS
    assert titles[0].startswith("lr=1\n")
    assert titles[-1].startswith("lr=8\n")
    assert "2 more groups are not shown." in picture.caption


def test_runs_without_either(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", points={"val/loss": [(2, 1.0, 1.0), (5, 0.5, 2.0)]})
    make_run("b", points={"train/loss": [(2, 1.0, 1.0), (5, 0.5, 2.0)]}, seed=1)
    make_run("c", points={}, seed=2)
    assert fitting_picture(summary_of(tmp_path / "runs")) is None


def test_a_run_that_diverged(make_run: Callable[..., Path], tmp_path: Path, titles: list[str]) -> None:
    nan = float("nan")
    points = [(2, 1.0, 1.0), (5, nan, 2.0), (8, nan, 3.0)]
    make_run("a", points={"train/loss": points, "val/loss": points})
    summary = summary_of(tmp_path / "runs")
    (group,) = summary.differences.groups
    lines = both(group)
    assert lines is not None
    assert np.isnan(lines[1].values[-1])
    assert fitting_picture(summary) is not None
    assert titles == ["least 1\nat epoch 1; nan at the end"] * 2
