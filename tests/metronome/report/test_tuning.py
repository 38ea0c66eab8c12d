"""Of each setting the best of what is tuned: by steps to the target, else by the final metric; equal ones are equal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from metronome.report.answers import Answers, answer
from metronome.report.differences import differences
from metronome.report.records import read_runs
from metronome.report.summary import summarize
from metronome.runs.asking import Asking, Target

ASKING = Asking("Which?", Target("val/loss", (0.5,), confirm=1), "optimizer.lr")


def answers(root: Path) -> Answers:
    runs, _ = read_runs([root])
    return answer(summarize(runs, differences(runs)), ASKING)


@pytest.fixture
def make(make_run: Callable[..., Path]) -> Callable[..., None]:
    def runs(size: int, rate: float, steps: list[int | None], final: float = 0.4) -> None:
        """A run a seed, which comes to 0.5 at so many steps."""
        for seed, by in enumerate(steps):
            values = [0.5 if by is not None and i + 1 >= by else 1.0 for i in range(12)]
            make_run(
                f"{size}-{rate}-{seed}", [f"data.batch_size={size}", f"optimizer.lr={rate}"], seed,
                config={"data": {"batch_size": size}, "optimizer": {"lr": rate}}, metrics={"val/loss": final},
                points={"val/loss": [(i, value, 1000.0 + i) for i, value in enumerate(values)]},
            )  # fmt: skip

    return runs


def test_the_best_rate(make: Callable[..., None], tmp_path: Path) -> None:
    """Not the one whose fast seeds are fastest, and of equal ones the smallest."""
    make(4, 0.1, [6, 8])
    make(4, 0.2, [2, None])
    make(4, 0.4, [5, 7])
    make(4, 0.8, [5, 7])
    make(8, 0.1, [9, 9])
    make(8, 0.2, [3, 3])
    make(8, 0.4, [4, 4])
    found = answers(tmp_path / "runs")
    four, eight = found.by_target[0.5]
    assert four.chosen is not None
    assert four.chosen.values["optimizer.lr"] == "0.4"
    assert [one.count for one in four.reached] == ["2 of 2", "1 of 2", "2 of 2", "2 of 2"]
    assert eight.chosen is not None
    assert eight.chosen.values["optimizer.lr"] == "0.2"
    assert (four.at_edge, eight.at_edge) == (False, False)
    assert found.notes == []
    assert [group.label for group in found.best.differences.groups] == [
        "batch_size=4 (lr 0.4)",
        "batch_size=8 (lr 0.2)",
    ]
    assert found.best.differences.keys == ["data.batch_size"]
    assert len(found.best.runs) == 4
    assert len(found.whole.runs) == 14


def test_without_a_target_the_metric_knows_which_rate_is_best(make_run: Callable[..., Path], tmp_path: Path) -> None:
    config = {"monitor": "val/acc", "callbacks": {"checkpoint": {"monitor": "val/acc", "mode": None}}}
    for rate, final in ((0.1, 0.7), (0.2, 0.9), (0.4, 0.5)):
        make_run(
            f"{rate}", [f"optimizer.lr={rate}"], config=config | {"optimizer": {"lr": rate}}, best=None,
            metrics={"val/acc": final}, points={"val/loss": [(2, 0.5, 1001.0)]},
        )  # fmt: skip
    runs, _ = read_runs([tmp_path / "runs"])
    best = answer(summarize(runs, differences(runs)), Asking(tune="optimizer.lr")).best
    assert [run.config["optimizer"]["lr"] for run in best.runs] == [0.2]


def test_where_none_comes_there_the_final_value_decides(make: Callable[..., None], tmp_path: Path) -> None:
    for rate, final in ((0.1, 0.9), (0.2, 0.7), (0.4, float("nan"))):
        make(4, rate, [None], final)
    make(8, 0.1, [3])
    found = answers(tmp_path / "runs")
    four, eight = found.by_target[0.5]
    assert four.chosen is not None
    assert (four.chosen.values["optimizer.lr"], four.by_steps, four.at_edge) == ("0.2", False, False)
    assert eight.by_steps
    assert not eight.at_edge, "there was but one"


def test_the_edge_is_said(make: Callable[..., None], tmp_path: Path) -> None:
    for rate, steps in ((0.1, 9), (0.2, 5), (0.4, 3)):
        make(4, rate, [steps])
    make(8, 0.1, [2])
    make(8, 0.2, [2])
    (note,) = answers(tmp_path / "runs").notes
    assert note.startswith("The best optimizer.lr lies at the edge of what was tried")
    assert note.endswith("at the target 0.5: batch_size=4 (0.4); batch_size=8 (0.1).")
