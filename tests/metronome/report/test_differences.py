"""What differs between runs, and the groups of those that differ in the seed alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metronome.report.differences import Differences, differences, overrides
from metronome.report.records import read_runs
from metronome.report.value_text import text


def compared(root: Path) -> Differences:
    return differences(read_runs([root])[0])


def test_groups_over_seeds(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for size in (64, 8, "full", 16):
        for seed in (0, 1):
            name, config = f"{size}-{seed}", {"data": {"batch_size": size}}
            make_run(name, ["model=mlp", f"data.batch_size={size}"], seed, config=config)
    found = compared(tmp_path / "runs")
    assert found.keys == ["data.batch_size"]
    assert found.shared == ["model=mlp"]
    # by size, and the whole data set by its samples; its plan has batches of 4
    assert [group.label for group in found.groups] == [
        "batch_size=full",
        "batch_size=8",
        "batch_size=16",
        "batch_size=64",
    ]
    assert [[run.seed for run in group.runs] for group in found.groups] == [["0", "1"]] * 4


def test_a_key_that_a_run_was_not_given(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """It counts with the value in its configuration, so that it may be the same; a group's file cannot be known."""
    make_run("a", ["optimizer.lr=0.1", "optimizer=adam"], config={"optimizer": {"lr": 0.1}})
    make_run("b", ["optimizer.momentum=0.9"], config={"optimizer": {"lr": 0.1, "momentum": 0.9}})
    found = compared(tmp_path / "runs")
    assert found.keys == ["optimizer", "optimizer.momentum"]
    assert found.shared == ["optimizer.lr=0.1"]
    assert [group.values for group in found.groups] == [
        {"optimizer": "adam", "optimizer.momentum": "–"},
        {"optimizer": "default", "optimizer.momentum": "0.9"},
    ]


def test_the_same_number_spelled_otherwise(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", ["optimizer.lr=1e-1"], config={"optimizer": {"lr": 0.1}})
    make_run("b", ["optimizer.lr=0.10"], config={"optimizer": {"lr": "1e-1"}})
    assert compared(tmp_path / "runs").keys == []


def test_what_says_how_to_go_on_is_no_difference(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", ["ckpt_path=last", "resume=auto", "hydra.verbose=true", "hydra/launcher=joblib", "trials=3"])
    make_run("b", [])
    found = compared(tmp_path / "runs")
    assert (found.keys, len(found.groups)) == ([], 1)


def test_experiments(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", experiment="digits")
    make_run("b", experiment="linear")
    found = compared(tmp_path / "runs")
    assert found.keys == ["experiment"]
    assert [group.label for group in found.groups] == ["experiment=digits", "experiment=linear"]


def test_labels_of_many_keys_leave_out_what_is_usual(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for name, values in {"a": (1, 1, 1, 1), "b": (2, 1, 1, 1), "c": (1, 3, 1, 1), "d": (1, 1, 4, 5)}.items():
        config = {"x": dict(zip("pqrs", values, strict=True))}
        make_run(name, [f"+x.{key}={value}" for key, value in config["x"].items()], config=config)
    labels = [group.label for group in compared(tmp_path / "runs").groups]
    assert labels == ["most common values", "r=4, s=5", "q=3", "p=2"]


@pytest.mark.parametrize(
    ("rates", "labels"),
    [
        ((0.0321349187, 0.5), ["lr=0.03213", "lr=0.5"]),
        ((0.0321349187, 0.0321349188), ["lr=0.0321349187", "lr=0.0321349188"]),
    ],
)
def test_labels_are_rounded_where_they_stay_apart(
    rates: tuple[float, float], labels: list[str], make_run: Callable[..., Path], tmp_path: Path
) -> None:
    for i, rate in enumerate(rates):
        make_run(str(i), [f"optimizer.lr={rate}"], config={"optimizer": {"lr": rate}})
    assert [group.label for group in compared(tmp_path / "runs").groups] == labels


def test_last_parts_that_are_the_same_are_told_in_full(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for name, (size, other) in {"a": (1, 2), "b": (3, 4)}.items():
        given = {"data": {"size": size}, "model": {"size": other}}
        make_run(name, [f"data.size={size}", f"model.size={other}"], config=given)
    assert compared(tmp_path / "runs").groups[0].label == "data.size=1, model.size=2"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("+experiment=digits", "experiment", "digits"),
        ("++model.width=3", "model.width", "3"),
        ("~callbacks.progress", "callbacks.progress", "–"),
        ("budget='20 epochs'", "budget", "20 epochs"),
        ("name=a\\=b", "name", "a=b"),
        ("data.x=", "data.x", ""),
    ],
)
def test_overrides(override: str, key: str, value: str, make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", [override])
    (run,), _ = read_runs([tmp_path / "runs"])
    assert overrides(run)[key] == value


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (True, "true"), (None, "null"), (0.1, "0.1"), ("1e-3", "0.001"), (5.0, "5"), ("5", "5"), ("full", "full"),
        ({"factor": 2}, '{"factor": 2}'), ([1, 2], "[1, 2]"), ("1_000", "1_000"), ("nan", "nan"),
    ],
)  # fmt: skip
def test_text(value: Any, written: str) -> None:
    assert text(value) == written


def test_a_run_made_twice_is_no_second_seed(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_run(name, seed=seed)
    runs, _ = read_runs([tmp_path / "runs"])
    (group,) = differences(runs).groups
    assert [run.name for run in group.runs] == ["a", "b", "c"]
    assert [run.name for run in group.measured] == ["b", "c"]


def test_what_no_override_says(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """A file of the configuration has changed between two runs that were asked for in the same words."""
    make_run("a", config={"optimizer": {"lr": 0.1}})
    make_run("b", seed=1, config={"optimizer": {"lr": 0.2}})
    runs, _ = read_runs([tmp_path / "runs"])
    found = differences(runs)
    assert found.keys == ["optimizer.lr"]
    assert [group.values for group in found.groups] == [{"optimizer.lr": "0.1"}, {"optimizer.lr": "0.2"}]


def test_a_limit_that_no_override_says(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """A run that is longer by a changed file is no other seed of the shorter one."""
    for seed, epochs in enumerate((4, 4, 8)):
        make_run(str(seed), seed=seed, config={"trainer": {"max_epochs": epochs, "limit_train_batches": None}})
    found = compared(tmp_path / "runs")
    assert found.keys == ["trainer.max_epochs"]
    assert [group.label for group in found.groups] == ["max_epochs=4", "max_epochs=8"]
    assert [[run.seed for run in group.runs] for group in found.groups] == [["0", "1"], ["2"]]


def test_what_the_model_takes_over_is_told_once(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for name, rate in (("a", 0.1), ("b", 0.2)):
        optimizer = {"lr": rate}
        make_run(name, config={"optimizer": optimizer, "model": {"width": 8, "optimizer": dict(optimizer)}})
    assert compared(tmp_path / "runs").keys == ["optimizer.lr"]


@pytest.mark.parametrize(("of_seed", "keys"), [((0, 1, 2), []), ((0, 1, 7), ["data.data_seed"])])
def test_a_value_that_is_the_seed(
    of_seed: tuple[int, ...], keys: list[str], make_run: Callable[..., Path], tmp_path: Path
) -> None:
    """`data_seed: ${seed}` tells no groups apart."""
    for seed, drawn in enumerate(of_seed):
        make_run(f"{seed}", [f"seed={seed}"], seed, config={"data": {"data_seed": drawn}})
    assert compared(tmp_path / "runs").keys == keys
