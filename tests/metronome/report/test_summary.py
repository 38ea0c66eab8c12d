"""The numbers of a run, worked by hand; their mean over seeds; summary.csv."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metronome.report.again.rows import read_summary
from metronome.report.differences import differences
from metronome.report.records import RunRecord, read_runs
from metronome.report.summary import Summary, mean_and_spread, measure, roughness, summarize, to_csv
from metronome.units import direction_of


def read(root: Path) -> list[RunRecord]:
    return read_runs([root])[0]


def summary_of(root: Path) -> Summary:
    runs = read(root)
    return summarize(runs, differences(runs))


def test_a_run_in_numbers(make_run: Callable[..., Path]) -> None:
    """12 steps and 40 samples in 4 epochs, in 40 seconds of the fit's 50; best 0.25 at step 9, the end of the third
    epoch. The gaps are those at the weights that are tested, and not to the last epoch's means (0.25 and 0.95)."""
    row = measure(read(make_run("a"))[0])
    expected = {
        "steps": 12, "epochs": 4, "samples": 40, "train_seconds": 40, "seconds_per_epoch": 10, "samples_per_second": 1,
        "peak_memory_MB": 123, "best_value": 0.25, "best_step": 9, "best_epoch": 3, "gap_accuracy": 0.9 - 0.75,
        "gap_loss": 0.5 - 0.125, "train/loss_epoch": 0.25, "train/acc": 0.95, "val/loss": 0.5, "test/loss": 0.5,
        "test/acc": 0.75,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert "train/loss" not in row, "the mean over the epoch takes its place"


def test_a_run_that_has_not_measured_has_no_number(make_run: Callable[..., Path]) -> None:
    """Of the training set at the end, of training alone, of memory that is its own."""
    metrics = {"train/loss_epoch": 0.25, "train/acc": 0.95, "test/loss": 0.5, "test/acc": 0.75}
    seconds = {"total": 60.0, "fit": 50.0}
    row = measure(read(make_run("a", metrics=metrics, seconds=seconds, peak_memory_is_own=False))[0])
    for name in ("gap_loss", "gap_accuracy", "train_seconds", "seconds_per_epoch", "samples_per_second"):
        assert row[name] is None, name
    assert row["peak_memory_MB"] is None
    in_sweep = make_run("b", peak_memory_is_own=None)  # before there was such a word; its configuration is a sweep's
    assert measure(read(in_sweep)[0])["peak_memory_MB"] is None


def test_which_groups_are_best(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """By one definition, the mean over seeds of each run's best; groups that differ by rounding are the same."""
    for size, values in ((4, (0.1, 0.5)), (8, (0.2, 0.400001)), (16, (0.5, 0.5))):
        for seed, value in enumerate(values):
            name, config = f"{size}-{seed}", {"data": {"batch_size": size}}
            make_run(name, [f"data.batch_size={size}"], seed, val_loss=value, config=config)
    found = summary_of(tmp_path / "runs")
    best = found.best_groups(found.differences.groups)
    assert best == (
        pytest.approx([0.1, 0.5]),
        ["batch_size=4", "batch_size=8"],
        [g.label for g in found.differences.groups],
    )


def test_roughness(make_run: Callable[..., Path]) -> None:
    # logged at steps 1 to 6; the second half is 4, 5, 6, and that is too short. At 8 it is steps 5 to 8: 1, 3, 1, 3,
    # whose differences 2, -2, 2 have the mean 2/3 and the variance ((4/3)^2 + (8/3)^2 + (4/3)^2) / 2 = 16/3.
    points = [(i, value, 1000.0 + i) for i, value in enumerate((9, 9, 9, 9, 1, 3, 1, 3))]
    long, short = make_run("a", points={"train/loss": points}), make_run("b", points={"train/loss": points[:6]})
    assert roughness(read(long)[0]) == pytest.approx(math.sqrt(16 / 3 / 2))
    assert roughness(read(short)[0]) is None


def test_roughness_of_noise_is_its_spread(make_run: Callable[..., Path]) -> None:
    """Also on a slope."""
    import random

    random.seed(0)
    points = [(i, 5 - i / 1000 + random.gauss(0, 0.2), 1000.0 + i) for i in range(4000)]
    assert roughness(read(make_run("a", points={"train/loss": points}))[0]) == pytest.approx(0.2, rel=0.05)


def test_a_run_in_several_starts(make_run: Callable[..., Path]) -> None:
    """Its result has the seconds of the last start alone, and the speed: 40 samples at 0.5 a second are 80 seconds."""
    resumed = {"checkpoint": "checkpoints/last.ckpt", "step": 6}
    row = measure(read(make_run("a", resumed_from=resumed, samples_per_second=0.5))[0])
    assert (row["train_seconds"], row["seconds_per_epoch"]) == (80, 20)


def test_a_run_without_a_result(make_run: Callable[..., Path], make_plan: Callable[..., Any]) -> None:
    """As far as its curves go: 5 steps are 10 + 4 + 4 samples."""
    points = {"train/loss": [(4, 0.5, 1001.0)], "val/loss": [(2, 0.75, 1002.0)], "lr": [(4, 0.1, 1001.0)]}
    row = measure(read(make_run("a", status=None, points=points))[0])
    found = {name: value for name, value in row.items() if value is not None}
    assert found == {
        "steps": 5, "epochs": 1.8, "samples": 18, "train/loss": 0.5, "val/loss": 0.75, "best_epoch": 1,
        "best_value": 0.75, "best_step": 3,
    }  # fmt: skip


def test_a_run_that_monitors_nothing(make_run: Callable[..., Path]) -> None:
    """Its best is the least val/loss of its curve: 0.25 after 9 steps."""
    (run,) = read(make_run("a", best=None, config={"callbacks": {"checkpoint": {"monitor": None, "mode": "max"}}}))
    assert (run.monitor, run.best_is_low) == ("val/loss", True)
    row = measure(run)
    assert (row["best_value"], row["best_step"], row["best_epoch"]) == (0.25, 9, 3)


def test_words_for_numbers(make_run: Callable[..., Path]) -> None:
    row = measure(read(make_run("a", metrics={"val/loss": "nan", "train/loss": "inf", "other": "word"}))[0])
    assert row["val/loss"] is not None
    assert math.isnan(row["val/loss"])
    assert row["train/loss"] == math.inf
    assert "other" not in row


def test_metrics_of_ones_own(make_run: Callable[..., Path], tmp_path: Path) -> None:
    best = {"monitor": "val/mae", "value": 3.5, "step": 6}
    config = {"callbacks": {"checkpoint": {"monitor": "val/mae", "mode": "max"}}}
    points = {"val/mae": [(2, 1.0, 1001.0), (5, 3.5, 1002.0), (8, 2.0, 1003.0)]}
    make_run("a", metrics={"val/mae": 2.0, "mine": 7.0, "test/mae": 4.0}, best=best, config=config, points=points)
    found = summary_of(tmp_path / "runs")
    assert (found.monitor, found.best_is_low) == ("val/mae", False)
    names = [column.name for column in found.columns]
    assert [name for name in names if name in ("val/mae", "test/mae", "mine")] == ["val/mae", "test/mae", "mine"]
    assert found.values("best_epoch", found.runs) == [2]
    assert "best val/mae" in [column.title for column in found.columns]


@pytest.mark.parametrize(
    ("metric", "mode", "said", "is_low"),
    [
        ("val/acc", None, None, False),
        ("val/loss", None, None, True),
        ("val/foo", "max", None, False),
        ("val/foo", None, "max", False),  # its torchmetric said it to the run
        ("val/acc", "min", "min", True),
        ("val/foo", None, None, True),
    ],
)
def test_which_values_are_good(
    metric: str, mode: str | None, said: str | None, is_low: bool, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    """As the result says, else the configuration, else the name; a summary.csv keeps what its name does not tell."""
    config = {"monitor": metric, "mode": mode, "callbacks": {"checkpoint": {"monitor": metric, "mode": mode}}}
    points = {metric: [(2, 0.5, 1001.0), (5, 0.75, 1002.0), (8, 0.25, 1003.0)]}
    best = {"monitor": metric, "value": 0.25, "step": 9} | ({} if said is None else {"mode": said})
    for i, more in enumerate(({"best": best}, {"best": None, "metrics": {}})):
        if i and said is not None:
            continue  # of a run without a result only the configuration is known
        (run,) = read(make_run(f"a{i}", [f"monitor={metric}"], config=config, points=points, **more))
        assert (run.monitor, run.best_is_low) == (metric, is_low)
        if i:
            assert measure(run)["best_value"] == (0.25 if is_low else 0.75)
    (tmp_path / "summary.csv").write_text(text := to_csv(summary_of(tmp_path / "runs")))
    assert (",monitor,mode," in text) == (direction_of(metric) != ("min" if is_low else "max"))
    assert {run.best_is_low for run in read_summary(tmp_path / "summary.csv")} == {is_low}


def test_what_a_configuration_monitors_without_a_checkpoint(make_run: Callable[..., Path]) -> None:
    """As in a study, which keeps none."""
    config = {"monitor": "val/acc", "mode": None, "callbacks": {"checkpoint": {"monitor": None, "mode": None}}}
    points = {"val/loss": [(2, 0.5, 1001.0), (5, 0.7, 1002.0)], "val/acc": [(2, 0.5, 1001.0), (5, 0.75, 1002.0)]}
    (run,) = read(make_run("a", best=None, config=config, points=points))
    assert (run.monitor, run.best_is_low, measure(run)["best_value"]) == ("val/acc", False, 0.75)


def test_columns_without_a_value_are_left_out(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", points={}, metrics={}, peak_memory_bytes=None)
    names = {column.name for column in summary_of(tmp_path / "runs").columns}
    assert not names & {"peak_memory_MB", "roughness", "best_epoch", "gap_loss", "gap_accuracy"}
    assert {"steps", "samples", "seconds_per_epoch"} <= names


def test_mean_and_spread() -> None:
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_spread([5.0]) == (5.0, None)


def test_a_group_stands_on_its_finished_runs(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("a", seed=0, val_loss=0.1)
    make_run("b", seed=1, val_loss=0.3)
    make_run("c", seed=2, val_loss=99.0, status="failed", error="the loss is not finite")
    found = summary_of(tmp_path / "runs")
    (group,) = found.differences.groups
    assert found.values("best_value", group.measured) == [0.1, 0.3]


def test_csv(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for size in (4, 8):
        make_run(f"b{size}", [f"data.batch_size={size}"], seed=size, config={"data": {"batch_size": size}})
    make_run("c", ["data.batch_size=5000"], status="failed", error="too, large", metrics={}, progress=None, best=None,
             config={"data": {"batch_size": 5000}}, points={})  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(to_csv(summary_of(tmp_path / "runs")))))
    assert [row["run"] for row in rows] == ["b4", "b8", "c"]
    assert [row["data.batch_size"] for row in rows] == ["4", "8", "5000"]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert [row["seed"] for row in rows] == ["4", "8", "0"]
    assert [row["train_seconds"] for row in rows] == ["40", "40", ""]
    assert [row["val/loss"] for row in rows] == ["0.5", "0.5", ""]
    assert [row["error"] for row in rows] == ["", "", "too, large"]
    assert [row["monitor"] for row in rows] == ["val/loss"] * 3
