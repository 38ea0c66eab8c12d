"""What `+study=gradient` measures, as figures and as means over seeds."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from metronome.report import report
from metronome.report.differences import differences
from metronome.report.figures.gradient import gradient_files, gradient_pictures
from metronome.report.records import read_runs
from metronome.report.summary import summarize

HEAD = "step,batch_size,batches,cosine,cosine_predicted,error,error_predicted,noise_scale\n"
LAYERS = "step,parameter,numbers,gradient\n"


def measured(folder: Path, cosine: float, gradient: float) -> None:
    rows = [f"{step},{size},10,{cosine},0.5,1.5,1.6,80\n" for step in (0, 8) for size in (1, 8, 10)]
    (folder / "gradient.csv").write_text(HEAD + "".join(rows))
    names = [f"{step},{name},64,{size}\n" for step in (0, 8) for name, size in (("1.weight", gradient), ("3.bias", 1))]
    (folder / "gradient_layers.csv").write_text(LAYERS + "".join(names))


def test_means_over_seeds_and_figures(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for name, group, seed, cosine in (("a", 4, 0, 0.2), ("b", 4, 1, 0.6), ("c", 8, 0, 0.8)):
        folder = make_run(name, [f"data.batch_size={group}"], seed, config={"data": {"batch_size": group}})
        measured(folder, cosine, 0.01)
    runs, _ = read_runs([tmp_path / "runs"])
    summary = summarize(runs, differences(runs))
    tables = {name: list(csv.DictReader(io.StringIO(file.decode()))) for name, file in gradient_files(summary).items()}
    rows = tables["gradient.csv"]
    first = rows[0]
    assert (first["group"], first["runs"], first["step"], first["batch_size"]) == ("batch_size=4", "2", "0", "1")
    assert float(first["cosine"]) == pytest.approx(0.4)
    assert float(first["cosine_sd"]) == pytest.approx(0.282843)
    assert [row["group"] for row in rows] == ["batch_size=4"] * 6 + ["batch_size=8"] * 6
    assert len(tables["gradient_layers.csv"]) == 8
    accuracy, layers = gradient_pictures(summary)
    assert accuracy.title == "How accurate the gradient of a batch is"
    assert layers.title == "How large the gradient is in each layer: 100 times apart"
    assert min(len(accuracy.png), len(layers.png)) > 10_000


def test_they_are_in_the_report(make_run: Callable[..., Path], tmp_path: Path, undrawn: None) -> None:
    measured(make_run("a"), 0.5, 0.1)
    page = report(tmp_path / "runs", tmp_path / "report").read_text()
    assert "The gradient of a batch" in page
    written = {path.name for path in (tmp_path / "report").glob("gradient*")}
    assert written == {"gradient.csv", "gradient_layers.csv", "gradient_accuracy.png", "gradient_layers.png"}


def test_damage_is_noted(make_run: Callable[..., Path], tmp_path: Path, undrawn: None) -> None:
    folder = make_run("a")
    (folder / "gradient.csv").write_text("step,batch_size,cosine\n0,8x,0.1\n")
    page = report(tmp_path / "runs", tmp_path / "report").read_text()
    assert "gradient.csv: " in page
    assert not (tmp_path / "report/gradient.csv").exists()


def test_runs_that_measured_nothing(make_run: Callable[..., Path], tmp_path: Path, undrawn: None) -> None:
    make_run("a")
    assert "gradient of a batch" not in report(tmp_path / "runs", tmp_path / "report").read_text()
    assert not list((tmp_path / "report").glob("gradient*"))
