"""Steps to samples and epochs, against tables worked by hand and a loop that counts."""

from typing import Any

import pytest

from metronome.report.step_table import StepTable
from metronome.units import BatchSchedule, Duration, Plan

GROWING = {"data": {"batch_size": 4, "batch_growth": {"factor": 2}}}


def step_table(
    epochs: list[tuple[int, int, int]], config: dict[str, Any], least_steps: int = 0, **other: Any
) -> StepTable:
    rows = [
        {"epoch": i, "batch_size": b, "steps": s, "iterations": s, "samples": n} for i, (b, s, n) in enumerate(epochs)
    ]
    of = {"num_samples": 10, "devices": 1, "accumulate_grad_batches": 1, "drop_last": False, "per_epoch": rows} | other
    return StepTable.of(of, config, least_steps)


def test_growing_batches() -> None:
    # 10 samples: 4 + 4 + 2, then 8 + 2, then 10
    made = step_table([(4, 3, 10), (8, 2, 10), (10, 1, 10)], GROWING)
    assert made.samples_at(range(7)).tolist() == [0, 4, 8, 10, 18, 20, 30]
    assert made.epochs_at(range(7)).tolist() == [0.0, 0.4, 0.8, 1.0, 1.8, 2.0, 3.0]
    assert made.batch_size_at(range(1, 7)).tolist() == [4, 4, 4, 8, 8, 10]


def test_drop_last() -> None:
    # 4 + 4, and 2 samples are left out: an epoch is 8 samples
    made = step_table([(4, 2, 8), (4, 2, 8)], {"data": {"batch_size": 4}}, drop_last=True)
    assert made.samples_at(range(5)).tolist() == [0, 4, 8, 12, 16]
    assert made.epochs_at(range(5)).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_a_budget_that_ends_in_mid_epoch() -> None:
    # 4 steps: 4 + 4 + 2, 4; the second epoch has 10 samples all the same
    made = step_table([(4, 3, 10), (4, 1, 4)], {"data": {"batch_size": 4}})
    assert made.samples_at([3, 4]).tolist() == [10, 14]
    assert made.epochs_at([3, 4]).tolist() == [1.0, 1.4]


def test_limited_epochs() -> None:
    # limit_train_batches=2: an epoch is 4 + 4
    made = step_table([(4, 2, 8), (4, 1, 4)], {"data": {"batch_size": 4}, "trainer": {"limit_train_batches": 2}})
    assert made.epochs_at([1, 2, 3]).tolist() == [0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("config", "samples"),
    [
        ({"data": {"batch_size": 4}}, [10, 14, 18, 20, 24]),
        (GROWING, [10, 18, 20, 30, 40]),
        ({"data": {"_target_": "theirs.Data"}}, [10, 14, 18, 20, 24]),
        ({}, [10, 14, 18, 20, 24]),
    ],
)
def test_beyond_the_table(config: dict[str, Any], samples: list[int]) -> None:
    """A budget of time lists one epoch; the others follow from the configuration."""
    made = step_table([(4, 3, 10)], config, least_steps=7)
    assert made.samples_at([3, 4, 5, 6, 7]).tolist() == samples


@pytest.mark.parametrize("budget", ["7 epochs", "23 steps", "100 samples"])
@pytest.mark.parametrize(("batch_size", "factor"), [(1, 1), (8, 1), (8, 2), (5, 3), (157, 1)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_against_a_loop(budget: str, batch_size: int, factor: int, drop_last: bool) -> None:
    growth = {"factor": factor}
    schedule = BatchSchedule.of(batch_size, 157, growth)
    plan = Plan.make(157, schedule, drop_last=drop_last, budgets=[Duration.parse(budget)])
    made = StepTable.of(plan.as_dict(), {"data": {"batch_size": batch_size, "batch_growth": growth}})
    assert plan.total_steps is not None
    step = seen = epoch = 0
    while step < plan.total_steps:
        size = schedule.at(epoch)
        batches = [min(size, 157 - first) for first in range(0, 157, size)]
        batches = [batch for batch in batches if batch == size or not drop_last]
        of_epoch = 0
        for batch in batches[: plan.total_steps - step]:
            step, seen, of_epoch = step + 1, seen + batch, of_epoch + batch
            assert made.samples_at(step) == seen
            assert made.epochs_at(step) == pytest.approx(epoch + of_epoch / sum(batches))
            assert made.batch_size_at(step) == size
        epoch += 1
    assert seen == plan.total_samples


@pytest.mark.parametrize("broken", [{}, {"per_epoch": []}, {"per_epoch": 3}, {"per_epoch": [{"epoch": 0}]}])
def test_no_plan(broken: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        StepTable.of(broken, {})


def test_a_million_epochs() -> None:
    """A budget of time, and the whole data set as one batch: one listed epoch, of one step."""
    made = step_table([(10, 1, 10)], {"data": {"batch_size": "full"}}, least_steps=1_000_000)
    assert made.samples_at([1, 999_999, 1_000_000]).tolist() == [10, 9_999_990, 10_000_000]
    assert made.epochs_at(1_000_000) == 1_000_000


def test_steps_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="more than 2,000,000 epochs"):
        step_table([(10, 1, 10)], {}, least_steps=10**15)
