"""Steps, samples and seconds until a target."""

from collections.abc import Callable
from pathlib import Path

import pytest

from metronome.report.differences import differences
from metronome.report.figures.style import Picture
from metronome.report.figures.tradeoff import reached, target_of, tradeoff_picture
from metronome.report.records import read_runs
from metronome.report.summary import summarize


@pytest.mark.parametrize(
    ("bests", "is_low", "target"),
    [
        ([0.5, 0.1, 0.3, 0.2], True, 0.3),
        ([0.5, 0.1, 0.3, 0.2], False, 0.2),
        ([1.0, 2.0], True, 2.0),
        ([7.0], True, 7.0),
    ],
)
def test_target(bests: list[float], is_low: bool, target: float) -> None:
    """Three quarters of the groups reach it."""
    assert target_of(bests, is_low) == target


@pytest.mark.parametrize(
    ("target", "steps", "at_once"),
    [(1.0, 3, True), (0.75, 4.5, False), (0.5, 6, False), (0.25, 9, False), (0.2, None, None)],
)
def test_reached(target: float, steps: float | None, at_once: bool | None, make_run: Callable[..., Path]) -> None:
    """val/loss is 1, 0.5, 0.25, 0.5 after 3, 6, 9, 12 steps, at 10, 20, 30, 40 seconds."""
    (run,), _ = read_runs([make_run("a")])
    hit = reached(run, "val/loss", target, best_is_low=True)
    if steps is None:
        assert hit is None
        return
    assert hit is not None
    assert (hit.at["steps"], hit.at_once) == (steps, at_once)
    assert hit.at["samples"] == pytest.approx(10 * steps / 3)
    assert hit.at["seconds"] == pytest.approx(10 * steps / 3)


def drawn(root: Path) -> Picture | str:
    runs, _ = read_runs([root])
    return tradeoff_picture(summarize(runs, differences(runs)))


def test_the_picture(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for size, best in ((4, 0.25), (8, 0.3), (16, 0.35), (32, 5.0)):
        make_run(str(size), [f"data.batch_size={size}"], val_loss=best, config={"data": {"batch_size": size}})
    picture = drawn(tmp_path / "runs")
    assert isinstance(picture, Picture)
    assert picture.png.startswith(b"\x89PNG")
    assert picture.title == "Until val/loss ≤ 0.35: fewest steps with batch_size=4, fewest samples with batch_size=4"
    assert "Not reached by: batch_size=32." in picture.caption
    assert "batch_size=16: 9 steps" in picture.alt


@pytest.mark.usefixtures("undrawn")
def test_a_seed_without_a_plan(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """It has steps and seconds; the samples are those of the others."""
    for size in (4, 8):
        for seed in (0, 1):
            config, torn = {"data": {"batch_size": size}}, (size, seed) == (8, 1)
            folder = make_run(f"{size}-{seed}", [f"data.batch_size={size}"], seed, config=config, plan=None)
            if torn:
                (folder / "plan.json").write_text("{")
    picture = drawn(tmp_path / "runs")
    assert isinstance(picture, Picture)


@pytest.mark.parametrize(
    ("runs", "words"),
    [(1, "Fewer than two groups have a curve"), (0, "Fewer than two groups have a curve")],
)
def test_nothing_to_compare(runs: int, words: str, make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", points=None if runs else {})
    assert words in str(drawn(tmp_path / "runs"))
