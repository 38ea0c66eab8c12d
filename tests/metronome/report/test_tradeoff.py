"""Steps, samples and seconds until a target: the figure."""

from collections.abc import Callable
from pathlib import Path

import pytest

from metronome.report.answers import answer
from metronome.report.differences import differences
from metronome.report.figures.style import Picture
from metronome.report.figures.tradeoff import tradeoff_picture
from metronome.report.records import read_runs
from metronome.report.summary import summarize
from metronome.runs.asking import Asking


def drawn(root: Path) -> Picture | str:
    runs, _ = read_runs([root])
    return tradeoff_picture(answer(summarize(runs, differences(runs)), Asking()))


def test_the_picture(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Three come to 0.35 between steps 6 and 9, and in the same interval: that is no difference."""
    for size, best in ((4, 0.25), (8, 0.3), (16, 0.35), (32, 5.0)):
        make_run(str(size), [f"data.batch_size={size}"], val_loss=best, config={"data": {"batch_size": size}})
    picture = drawn(tmp_path / "runs")
    assert isinstance(picture, Picture)
    assert picture.png.startswith(b"\x89PNG")
    assert picture.title == ("Until val/loss ≤ 0.35: fewest steps the same with all, fewest samples the same with all")
    assert "Not reached by all runs at 0.35: batch_size=32 (0 of 1)." in picture.caption
    assert "batch_size=16: (6, 9] steps" in picture.alt


@pytest.mark.usefixtures("undrawn")
def test_a_seed_without_a_plan(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """It has steps and seconds; so samples cannot be told of its group."""
    for size in (4, 8):
        for seed in (0, 1):
            config, torn = {"data": {"batch_size": size}}, (size, seed) == (8, 1)
            folder = make_run(f"{size}-{seed}", [f"data.batch_size={size}"], seed, config=config, plan=None)
            if torn:
                (folder / "plan.json").write_text("{")
    picture = drawn(tmp_path / "runs")
    assert isinstance(picture, Picture)


@pytest.mark.usefixtures("undrawn")
def test_one_seed_that_does_not_reach_it(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """A mean over those that were fast enough would be no mean of the group."""
    for size in (4, 8, 16, 32):
        for seed in (0, 1, 2):
            best = 0.9 if (size, seed) == (32, 2) else 0.25
            config = {"data": {"batch_size": size}}
            make_run(f"{size}-{seed}", [f"data.batch_size={size}"], seed, val_loss=best, config=config)
    picture = drawn(tmp_path / "runs")
    assert isinstance(picture, Picture)
    assert "Not reached by all runs at 0.25: batch_size=32 (2 of 3)." in picture.caption


@pytest.mark.parametrize(
    ("runs", "words"),
    [(1, "Fewer than two groups have a curve"), (0, "Fewer than two groups have a curve")],
)
def test_nothing_to_compare(runs: int, words: str, make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", points=None if runs else {})
    assert words in str(drawn(tmp_path / "runs"))
