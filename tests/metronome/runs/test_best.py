"""Which values of a sweep are named as the best."""

from pathlib import Path
from typing import Any

import pytest

from metronome.runs.best import Best, best_of, direction_of


def run(value: float | str, *overrides: str, monitor: str = "val/loss", **best: Any) -> tuple[Path, dict[str, Any]]:
    result = {"overrides": ["+experiment=x", *overrides], "best": {"monitor": monitor, "value": value, **best}}
    return Path("sweep") / ",".join(overrides), result


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    (tmp_path / "multirun.yaml").write_text(
        "hydra: {sweeper: {_target_: x}, overrides: {task: [+experiment=x, 'a=1,2', 'seed=0,1']}}"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("runs", "overrides", "values"),
    [
        ([run(2.0, "a=1"), run(1.0, "a=2")], ["a=2"], (1.0,)),
        ([run(2.0, "a=1", mode="max"), run(1.0, "a=2", mode="max")], ["a=1"], (2.0,)),
        # one lucky seed is not the best: the means are 2 and 1.5
        ([run(0.5, "a=1", "seed=0"), run(3.5, "a=1", "seed=1"), run(1, "a=2", "seed=0"), run(2, "a=2", "seed=1")],
         ["a=2"], (1.0, 2.0)),
        ([run("nan", "a=1"), run("inf", "a=2"), run(9.0, "a=3")], ["a=3"], (9.0,)),
        ([run("nan", "a=1", mode="max"), run(-9.0, "a=3", mode="max")], ["a=3"], (-9.0,)),
        ([run(1.0, "a=1", "seed=5"), run(2.0, "a=2", "seed=5")], ["a=1", "seed=5"], (1.0,)),  # only one seed
    ],
)  # fmt: skip
def test_the_best(runs, overrides, values, sweep):
    best = best_of(sweep, runs)
    assert isinstance(best, Best)
    assert (best.overrides, best.values) == (overrides, values)
    assert (best.run is None) == (len(values) > 1)


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([], ""),
        ([(Path("x"), {"overrides": [], "best": None})], ""),
        ([run(1.0, "data=a"), run(2.0, "data=b")], "the runs differ in data"),
        ([run(1.0, "+experiment=a"), run(2.0, "+experiment=b")], "the runs differ in experiment"),
        ([run(1.0, "a=1"), run(2.0, "a=2", monitor="val/acc", mode="max")],
         "the runs monitor different things: val/acc (max), val/loss (min)"),
    ],
)  # fmt: skip
def test_where_none_is_named(runs, why, sweep):
    assert best_of(sweep, runs) == why


def test_which_way_is_better(tmp_path):
    """As the result says, else as the run's configuration does."""
    checkpoint = "{monitor: val/foo, mode: max}"
    (tmp_path / "config.yaml").write_text(f"callbacks: {{checkpoint: {checkpoint}}}")
    assert direction_of(tmp_path, {"best": {"monitor": "val/foo"}}) == "max"
    assert direction_of(tmp_path, {"best": {"monitor": "val/acc", "mode": "min"}}) == "min"
    assert direction_of(tmp_path, {"best": {"monitor": "val/acc"}}) == "max"
    assert direction_of(tmp_path / "none", {"best": {"monitor": "val/foo"}}) == "min"
