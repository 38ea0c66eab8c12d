"""Which values of a configuration decide what a run is."""

from typing import Any

import pytest

from metronome.runs.deciding import deciding, flat

SGD = {"lr": 0.1, "nesterov": False}
CONFIG: dict[str, Any] = {
    "experiment": "digits",
    "data": {"batch_size": 64, "batch_growth": {"factor": 2}},
    "model": {"width": [128, 10], "optimizer": dict(SGD), "scheduler": None},
    "optimizer": SGD,
    "scheduler": None,
    "trainer": {"max_epochs": 3, "max_time": {"hours": 1}, "devices": 2},
    "budget": None,
    "seed": 0,
    "run_dir": "runs/digits/first",
}
EXPECTED = {
    "data.batch_size": 64,
    "data.batch_growth.factor": 2,
    "model.width": [128, 10],
    "optimizer.lr": 0.1,
    "optimizer.nesterov": False,
    "scheduler": None,
    "budget": None,
    "seed": 0,
    "trainer.max_epochs": 3,
    "trainer.max_time.hours": 1,
}


def test_the_values_that_decide() -> None:
    assert deciding(CONFIG) == EXPECTED


@pytest.mark.parametrize(
    ("optimizer", "more"),
    [
        ("${optimizer}", {}),  # before it is resolved
        ({"lr": 0.2}, {"model.optimizer.lr": 0.2}),  # the model's own
        (None, {"model.optimizer": None}),
    ],
)
def test_what_the_model_takes_over_counts_once(optimizer: Any, more: dict[str, Any]) -> None:
    model = {"width": [128, 10], "optimizer": optimizer, "scheduler": "${scheduler}"}
    assert deciding(CONFIG | {"model": model}) == EXPECTED | more


@pytest.mark.parametrize("odd", [None, 3, "word", [1], {}, True])
def test_groups_that_are_no_tables(odd: Any) -> None:
    """As a file that someone has edited may have them."""
    given: dict[str, Any] = dict.fromkeys(("data", "model", "optimizer", "scheduler", "trainer"), odd)
    expected = {} if odd == {} else {name: odd for name in given if name != "trainer"}
    assert deciding(given) == expected | {"budget": None, "seed": None}


def test_flat() -> None:
    assert flat("a", {"b": {"c": 1, "d": [2]}, "e": {}}) == {"a.b.c": 1, "a.b.d": [2]}


def test_an_option_that_came_later_changes_no_run_from_before() -> None:
    before, now = {"data": {"batch_size": 8}}, {"data": {"batch_size": 8, "on_device": "auto"}}
    assert deciding(before) == deciding(now)
    assert deciding(now) != deciding({"data": {"batch_size": 8, "on_device": False}})


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        (("val/loss", "min"), ("val/loss", None), True),
        (("val/acc", "max"), ("val/acc", None), True),
        (("val/acc", "min"), ("val/acc", None), False),
        (("val/foo", "min"), ("val/foo", "max"), False),
    ],
)
def test_the_mode_of_a_plateau_may_be_said_or_not(one: Any, other: Any, are_same: bool) -> None:
    first, second = (deciding({"scheduler": {"monitor": name, "mode": mode}}) for name, mode in (one, other))
    assert (first == second) == are_same
