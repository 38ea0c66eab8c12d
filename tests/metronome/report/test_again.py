"""The answer that a page begins with; and a report again, from its summary.csv."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from pages import Page

from metronome.report import report
from metronome.report.again.asked import asking_beside
from metronome.report.again.rows import read_summary
from metronome.runs.asking import Asking, Target
from metronome.units import InputError

MakeRun = Callable[..., Path]
STUDY = {
    "question": "How many steps does a batch of each size take?",
    "target": {"metric": "val/loss", "values": [0.5, 0.3], "confirm": 2},
    "tune": "optimizer.lr",
}
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def study(make_run: MakeRun, make_plan: Callable[..., Any], tmp_path: Path) -> Path:
    """Four batch sizes, two rates, two seeds: a loss that falls by 4 % a step and more, slower with one rate."""
    for size in (2, 4, 8, "full"):
        for rate in (0.1, 0.4):
            for seed in (0, 1):
                number = 16 if size == "full" else size
                fall = 0.96 - 0.01 * number**0.5 - (0.02 if rate == 0.4 else 0.0) - 0.005 * seed
                points = [(2 * k + 1, fall ** (2 * k + 2), 1000.0 + k) for k in range(30)]
                make_run(f"{size}-{rate}-{seed}", [f"data.batch_size={size}", f"optimizer.lr={rate}"], seed,
                         config={"data": {"batch_size": size}, "optimizer": {"lr": rate}}, points={"val/loss": points},
                         the_plan=make_plan(num_samples=16, epochs=[(number, 16 // number, 16)] * 30 * number),
                         val_loss=fall**60)  # fmt: skip
    (tmp_path / "runs/study.json").write_text(json.dumps({"name": "x", "study": STUDY}))
    return tmp_path / "runs"


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as content:
        return list(csv.DictReader(content))


def test_the_page_begins_with_the_answer(study: Path) -> None:
    page = Page(report(study))
    question, answer = page.text.find(STUDY["question"]), page.text.find('<p class="answer">')
    assert 0 < question < answer < page.text.find("<table") < page.text.find("<img")
    assert page.text.find("<img") < page.text.find("All numbers") < page.text.find("Every run")
    assert page.column(0, "data.batch_size") == ["2", "4", "8", "full"]
    assert page.column(0, "reached") == ["2 of 2"] * 4
    assert page.column(0, "best optimizer.lr") == ["0.4 (edge)"] * 4


def test_the_numbers_of_a_csv_by_hand(study: Path, tmp_path: Path) -> None:
    """Means and spreads of what stands in the file, from its rows alone. What was asked stands in the study of
    its name."""
    made = report(study).parent / "summary.csv"
    file = tmp_path / "conf/study/results/sizes.csv"
    file.parent.mkdir(parents=True)
    file.write_bytes(made.read_bytes())
    (file.parent.parent / "sizes.yaml").write_text("# @package _global_\nstudy: " + json.dumps(STUDY) + "\n")
    again = report(file, out=tmp_path / "again")
    page, rows = Page(again), rows_of(file)
    assert STUDY["question"] in page.text
    assert "Curves are not in a summary.csv." in page.text
    for i, size in enumerate(("2", "4", "8", "full")):
        of = [row for row in rows if row["data.batch_size"] == size and row["optimizer.lr"] == "0.4"]
        for axis in ("steps", "samples"):
            ends = [[float(row[f"{axis}_to_0.3_{end}"]) for row in of] for end in ("after", "by")]
            low, high = (f"{fmean(end):,.1f}".removesuffix(".0") for end in ends)
            spread = float(f"{stdev((a + b) / 2 for a, b in zip(*ends, strict=True)):.2g}")
            assert page.column(0, axis)[i] == f"{low} – {high} ± {spread:,.6g}"
    # the group of each setting at its best rate: a plain column of the file
    place = next(i for i, table in enumerate(page.tables) if "best val/loss" in table[0])
    for size, shown in zip(("2", "4", "8", "full"), page.column(place, "best val/loss"), strict=True):
        of = [row for row in rows if (row["data.batch_size"], row["optimizer.lr"]) == (size, "0.4")]
        values = [float(row["best_value"]) for row in of]
        assert shown == f"{fmean(values):.4g} ± {stdev(values):.2g}"
    assert (again.parent / "summary.csv").read_bytes() == file.read_bytes()


def test_the_same_figures_of_results(study: Path, tmp_path: Path) -> None:
    """All but curves; and the same tables. What was asked stands in the sweep that the report lies in."""
    first = report(study)
    again = report(first.parent / "summary.csv", out=tmp_path / "again")
    names = [{path.name for path in page.parent.glob("*.png")} for page in (first, again)]
    assert names[1] == {name for name in names[0] if not name.startswith(("curves_", "fitting"))}
    assert names[1] >= {"scaling.png", "tradeoff.png", "sweep_data_batch_size.png"}
    assert Page(first).tables == Page(again).tables
    fits = [page.read_text().split("<figcaption>First the mean interval")[1].split("</")[0] for page in (first, again)]
    assert fits[0] == fits[1], "of steps by batch size"


def test_without_a_study(make_run: MakeRun, tmp_path: Path) -> None:
    """The target that was set for the runs is that of the file; groups that are the same are all marked."""
    for size, best in ((4, 0.25), (8, 0.2500004), (16, 0.3)):
        for seed in (0, 1):
            make_run(f"{size}-{seed}", [f"data.batch_size={size}"], seed, val_loss=best + seed / 100,
                     config={"data": {"batch_size": size}})  # fmt: skip
    first = report(tmp_path / "runs")
    again = report(first.parent / "summary.csv", out=tmp_path / "again")
    assert Page(first).tables[0] == Page(again).tables[0]
    assert "tradeoff.png" in {path.name for path in again.parent.iterdir()}
    text = first.read_text()
    assert "The best val/loss is with batch_size=4 and batch_size=8, which are the same (0.255 ± 0.0071, n = 2)" in text
    assert text.split("</table>")[0].count("<td class=best") == 2 * 3, "best, test/acc and test/loss of both"
    assert "The same for all, within rounding:" in text
    assert Page(first).column(0, "n") == ["2"] * 3


@pytest.mark.parametrize(("others", "near"), [((20, 30), True), ((40, 42), False)])
def test_what_is_as_good_as_the_best_is_said(
    others: tuple[int, ...], near: bool, make_run: MakeRun, tmp_path: Path
) -> None:
    """Steps 18 and 28 (23 ± 7.1) against 20 and 30, two apart, or 40 and 42, eighteen."""
    for size, ends in ((4, (18, 28)), (8, others)):
        for seed, end in enumerate(ends):
            points = [(k, 0.1 if k + 1 >= end else 1.0, 1000.0 + k) for k in range(60)]
            make_run(f"{size}-{seed}", [f"data.batch_size={size}"], seed, points={"val/loss": points},
                     config={"data": {"batch_size": size}})  # fmt: skip
    asked = {"target": {"metric": "val/loss", "values": [0.3]}}
    (tmp_path / "runs/study.json").write_text(json.dumps({"name": "x", "study": asked}))
    text = report(tmp_path / "runs").read_text()
    said = "22.5 ± 7.1, n = 2" + ("; no farther than a standard deviation: batch_size=8" if near else "")
    assert f"the fewest steps with batch_size=4 ({said})" in text


def test_whether_seeds_are_the_same(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(2):
        make_run(str(seed), [f"data.batch_size={4 + seed}"], seed, config={"data": {"batch_size": 4 + seed}})
    assert "The groups do not have the same seeds" in report(tmp_path / "runs").read_text()


def test_where_it_is_written(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not over the report that it is of."""
    make_run("a", points={})
    file = report(tmp_path / "runs").parent / "summary.csv"
    monkeypatch.chdir(tmp_path)
    assert report(file) == Path("runs/report_summary/report.html")


def test_what_was_asked(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/a.csv").write_text("")
    assert asking_beside(tmp_path / "results/a.csv") == Asking()
    (tmp_path / "a.yaml").write_text("study: {question: why, target: {metric: val/acc, values: [0.9], mode: max}}")
    found = asking_beside(tmp_path / "results/a.csv")
    assert (found.question, found.target) == ("why", Target("val/acc", (0.9,), best_is_low=False))


HEAD = "run,experiment,status,seed,monitor,best_value,error\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read .*: No such file or directory"),
        ("a,b\n1,2\n", "is no summary of runs: no column run"),
        ("", "is no summary of runs"),
        (HEAD, "has no row"),
        (HEAD + "a,b\n", "has a row with 2 of 7 cells"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_what_is_no_summary(content: str | bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words):
        report(file, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_row_given_twice_is_no_second_run(study: Path, tmp_path: Path) -> None:
    report(study)
    head, *rows = (study / "report/summary.csv").read_text().splitlines()
    (tmp_path / "x.csv").write_text("\n".join([head, *rows, rows[3]]) + "\n")
    with pytest.raises(InputError, match="twice"):
        report(tmp_path / "x.csv", out=tmp_path / "out")


def test_a_csv_that_a_spreadsheet_saved(study: Path, tmp_path: Path) -> None:
    report(study)
    text = (study / "report/summary.csv").read_text()
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert len(read_summary(tmp_path / "x.csv")) == 16


def test_a_csv_far_from_its_study_says_what_its_times_are_to(study: Path, tmp_path: Path) -> None:
    asked = {"target": {"metric": "test/acc", "values": [0.4, 0.2], "mode": "max", "confirm": 2}}
    (study / "study.json").write_text(json.dumps({"name": "x", "study": asked}))
    report(study)
    far = tmp_path / "far.csv"
    rows = rows_of(study / "report/summary.csv")
    for row in rows:  # the first value is the easier one
        row |= {"steps_to_0.2_after": "2", "steps_to_0.2_by": "4", "steps_to_0.4_after": "6", "steps_to_0.4_by": "8"}
        row |= {"samples_to_0.4_after": "48", "samples_to_0.4_by": "64"}
    with open(far, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    page = Page(report(far, out=tmp_path / "out"))
    assert "test/acc ≥ 0.4: fewest steps" in page.text, "the hardest"
    assert "where 2 validations in a row have it" in page.text
    assert "val/loss ≤" not in page.text
    assert "three quarters" not in page.text
    without = [{name: value for name, value in row.items() if "samples_to" not in name} for row in rows]
    with open(far, "w", newline="") as file:
        writer = csv.DictWriter(file, list(without[0]))
        writer.writeheader()
        writer.writerows(without)
    assert "Neither samples nor seconds to test/acc are known" in Page(report(far, out=tmp_path / "out")).text
    far.write_text(far.read_text().replace("max, 2 in a row", "most"))
    with pytest.raises(InputError, match="target="):
        report(far, out=tmp_path / "out")


def test_a_metric_that_no_run_has_logged(study: Path) -> None:
    asked = {"target": {"metric": "val/f1", "values": [0.4], "mode": "max"}}
    (study / "study.json").write_text(json.dumps({"name": "x", "study": asked}))
    assert "No run has logged val/f1" in Page(report(study)).text


def test_one_seed_shows_no_spread(make_run: MakeRun, tmp_path: Path) -> None:
    for size in (2, 4):
        points = [(k, 1 / (k + size), 1000.0 + k) for k in range(10)]
        make_run(f"{size}", [f"data.batch_size={size}"], 0, points={"val/loss": points}, val_loss=0.1)
    text = Page(report(tmp_path / "runs")).text
    assert "nothing is known of how far another seed would come out" in text
    assert "± is" not in text


def test_a_row_by_hand(tmp_path: Path) -> None:
    head = "run,experiment,status,seed,order,data.batch_size,monitor,best_value,test/acc,epochs,samples,steps_to_0.3_after,steps_to_0.3_by,error"  # noqa: E501
    (tmp_path / "x.csv").write_text(head + "\na/b,digits,finished,3,7,full,val/loss,0.25,0.9,2,20,10,12,\n")
    (run,) = read_summary(tmp_path / "x.csv")
    assert (run.name, run.experiment, run.status, run.seed, run.order) == ("a/b", "digits", "finished", "3", 7)
    assert run.plan == {"batch_size": 10}, "20 samples in 2 epochs"
    assert run.metrics == {"test/acc": 0.9}
    assert (run.hits[0.3].after, run.hits[0.3].by) == ({"steps": 10}, {"steps": 12})
    assert run.measures == {"best_value": 0.25, "test/acc": 0.9, "epochs": 2, "samples": 20}
