"""Figures of swept values: which there are, and what is in them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from metronome.report.differences import differences
from metronome.report.figures.style import Picture
from metronome.report.figures.sweeps import sweep_pictures
from metronome.report.records import read_runs
from metronome.report.summary import summarize


def drawn(root: Path) -> list[Picture]:
    runs, _ = read_runs([root])
    return sweep_pictures(summarize(runs, differences(runs)))


@pytest.mark.usefixtures("undrawn")
def test_numbers_words_and_seeds(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for i, size in enumerate((4, 8, "full")):
        for optimizer in ("sgd", "adam"):
            for seed in (0, 1):
                config = {"data": {"batch_size": size}}
                best = 0.5 + i + seed / 10 - (optimizer == "adam") * 0.25
                given = [f"data.batch_size={size}", f"optimizer={optimizer}"]
                make_run(f"{size}-{optimizer}-{seed}", given, seed, val_loss=best, config=config)
    sizes, optimizers = drawn(tmp_path / "runs")
    assert (sizes.name, optimizers.name) == ("sweep_data_batch_size", "sweep_optimizer")
    # 4, 8 and full, whose plan has batches of 4: the best is the mean over two seeds with batches of 4 and Adam
    best = "the best val/loss with batch_size=4, optimizer=adam (0.3 ± 0.071, n = 2)"
    assert sizes.title == f"Results by data.batch_size: {best}"
    assert "One line for each of optimizer=adam; optimizer=sgd." in sizes.alt
    assert optimizers.title == f"Results by optimizer: {best}"


@pytest.mark.usefixtures("undrawn")
def test_many_combinations_are_points(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """As a search makes them: no two runs share a value."""
    for i in range(10):
        values = {"lr": 0.001 * 3.1**i, "width": 7 * i}
        given = [f"+x.{key}={value}" for key, value in values.items()]
        make_run(str(i), given, val_loss=1.0 + i, config={"x": values})
    pictures = drawn(tmp_path / "runs")
    assert [picture.name for picture in pictures] == ["sweep_x_lr", "sweep_x_width"]
    assert "The 10 combinations of the other values are not told apart." in pictures[0].caption


@pytest.mark.parametrize("what", ["failed", "same"])
def test_nothing_to_show(what: str, make_run: Callable[..., Path], tmp_path: Path) -> None:
    for size in (4, 5000):
        lost = {"status": "failed", "points": {}, "progress": None, "metrics": {}} if what == "failed" else {}
        config = {"data": {"batch_size": size}}
        make_run(str(size), [f"data.batch_size={size}"], config=config, **(lost if size == 5000 else {}))
    assert drawn(tmp_path / "runs") == []


@pytest.mark.parametrize("values", [(4, 16, 64), ("a", "b", "c")])
def test_it_can_be_drawn(values: tuple[object, ...], make_run: Callable[..., Path], tmp_path: Path) -> None:
    """Gaps on both sides of 0, a value that is not finite, one run without a metric."""
    for i, value in enumerate(values):
        metrics = [{"test/acc": 0.9, "train/acc": 0.8}, {"test/acc": 0.7, "train/acc": 0.8}, {"test/acc": "nan"}][i]
        make_run(str(value), [f"+x.a={value}"], config={"x": {"a": value}}, metrics=metrics, points={})
    (picture,) = drawn(tmp_path / "runs")
    assert picture.png.startswith(b"\x89PNG")


def test_a_difference_is_rounded_as_its_parts_are(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """1.523739 and 1.523736 are the same loss, and so are the gaps of 0.010003 and 0.01 that they make."""
    for size, loss in ((4, 1.523739), (8, 1.523736)):
        metrics = {"test/loss": loss, "train_set/loss": 1.513736}
        make_run(str(size), [f"data.batch_size={size}"], config={"data": {"batch_size": size}}, metrics=metrics)
    runs, _ = read_runs([tmp_path / "runs"])
    summary = summarize(runs, differences(runs))
    gaps = [summary.values("gap_loss", group.measured)[0] for group in summary.differences.groups]
    assert gaps == pytest.approx([0.010003, 0.01])
    assert summary.is_the_same("gap_loss", summary.differences.groups)
