"""Where runs come to a target: intervals, confirmed, over all seeds; grids that differ."""

from collections.abc import Callable
from pathlib import Path

import pytest

from metronome.report.answers import target_of
from metronome.report.records import read_runs
from metronome.report.targets import grids_differ, hit, reached

METRIC = "val/loss"


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
    ("target", "after", "by"),
    [(1.0, 0, 3), (0.75, 3, 6), (0.5, 3, 6), (0.25, 6, 9), (0.2499999, 6, 9), (0.2499, None, None)],
)
def test_the_interval(target: float, after: int | None, by: int | None, make_run: Callable[..., Path]) -> None:
    """val/loss is 1, 0.5, 0.25, 0.5 after 3, 6, 9, 12 steps; 10 samples and 10 seconds of training in 3 of them. What
    differs by rounding is reached."""
    (run,), _ = read_runs([make_run("a")])
    found = hit(run, METRIC, target, best_is_low=True)
    if by is None or after is None:
        assert found is None
        return
    assert found is not None
    assert (found.after["steps"], found.by["steps"], found.confirmed) == (after, by, True)
    for axis in ("samples", "seconds"):
        assert (found.after[axis], found.by[axis]) == pytest.approx((10 * after / 3, 10 * by / 3))


CURVE = (9, 4, 9, 4, 4, 9, 4, 4, 4, 4)  # at steps 1 to 10


@pytest.mark.parametrize(
    ("confirm", "by", "confirmed"),
    [(1, 2, True), (2, 4, True), (3, 7, True), (4, 7, True), (5, 7, False)],
)
def test_so_many_in_a_row(confirm: int, by: int, confirmed: bool, make_run: Callable[..., Path]) -> None:
    """One that dips below and comes back has not come there; one that ends below may have."""
    points = {METRIC: [(i, float(value), 1000.0 + i) for i, value in enumerate(CURVE)]}
    (run,), _ = read_runs([make_run("a", points=points)])
    found = hit(run, METRIC, 5.0, best_is_low=True, confirm=confirm)
    assert found is not None
    assert (found.after["steps"], found.by["steps"], found.confirmed) == (by - 1, by, confirmed)
    high = hit(run, METRIC, 5.0, best_is_low=False, confirm=confirm)
    assert (high is not None) == (confirm == 1)


def test_a_group(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for seed, best in enumerate((0.25, 0.5, 0.8)):
        make_run(str(seed), seed=seed, val_loss=best)
    runs, _ = read_runs([tmp_path / "runs"])
    some, every = reached(runs, METRIC, 0.5, True), reached(runs, METRIC, 1.6, True)
    assert (some.count, some.interval("steps")) == ("2 of 3", None)
    # 1.6 is had at steps 3, 6 and 6
    assert (every.count, every.interval("steps")) == ("3 of 3", (2.0, 5.0))
    assert every.middles("steps") == [1.5, 4.5, 4.5]
    last = reached(runs, METRIC, 0.5, True, confirm=4)  # the first run has it in the last three of its validations
    assert (last.hits, last.unconfirmed) == ([], 1)
    assert last.count == "0 of 3 (1 more not confirmed)"


def test_grids(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """The same run, validated every 3 steps and every step: as intervals their times agree, and a line says why."""
    make_run("a")
    runs, _ = read_runs([tmp_path / "runs"])
    assert grids_differ(runs, METRIC) is None
    values = (3, 2, 1, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.3, 0.4, 0.5)
    make_run("b", seed=1, points={METRIC: [(i, value, 1000.0 + i) for i, value in enumerate(values)]})
    runs, _ = read_runs([tmp_path / "runs"])
    words = grids_differ(runs, METRIC)
    assert words is not None
    assert "different steps (every 1 to 3)" in words
    rough, fine = (hit(run, METRIC, 0.45, True) for run in runs)
    assert rough is not None
    assert fine is not None
    assert (rough.after["steps"], rough.by["steps"], fine.after["steps"], fine.by["steps"]) == (6, 9, 6, 7)


def test_a_shorter_run_is_on_the_same_grid(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a")
    make_run("b", seed=1, points={METRIC: [(2, 1.0, 1010.0), (5, 0.2, 1020.0)]})
    assert grids_differ(read_runs([tmp_path / "runs"])[0], METRIC) is None
