"""What a sweep says, line by line, in 80 columns; of jobs that run elsewhere from what they leave."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from metronome.app.console.wrapped import wrapped
from metronome.app.sweeps import lines as sweep_lines
from metronome.app.sweeps import place as places
from metronome.app.sweeps.lines import best_lines, failed_lines, job_line, report_lines
from metronome.app.sweeps.place import Place, here, label
from metronome.app.sweeps.table import Table
from metronome.runs.best import Best

LONG = ["model.network.number_of_hidden_layers=12", "optimizer.weight_decay=0.00012345678", "seed=0"]


def content(**more: Any) -> dict[str, Any]:
    metrics = {"val/loss": 0.1, "test/loss": 0.1183972, "test/mae": 0.278612, "test/f1": 0.5, "train/loss": 3.0}
    return {
        "status": "finished",
        "best": {"monitor": "val/loss", "value": 0.10357},
        "metrics": metrics,
        "tested": ["test/f1", "test/loss", "test/mae"],
        "seconds": {"fit": 0.34},
        **more,
    }


def multirun(folder: Path, *overrides: str) -> Path:
    sweeper = {"_target_": "x"}
    (folder / "multirun.yaml").write_text(
        json.dumps({"hydra": {"sweeper": sweeper, "overrides": {"task": list(overrides)}}})
    )
    return folder


def test_a_job(tmp_path: Path) -> None:
    place = Place(number=3, jobs=12, width=25)
    line = job_line(place, ["data.batch_size=16", "seed=0"], content(), "0.3 s")
    assert line == " 3/12  data.batch_size=16 seed=0  val/loss 0.1036   test/f1 0.5      0.3 s"


def test_long_keys_are_told_by_their_last_word(tmp_path: Path) -> None:
    place = Place.of_jobs(multirun(tmp_path, "+experiment=x"), [["+experiment=x", *LONG]] * 3)
    assert place.names == {
        "model.network.number_of_hidden_layers": "number_of_hidden_layers",
        "optimizer.weight_decay": "weight_decay",
    }
    line = job_line(place, LONG, content(), "0.3 s")
    assert line == "1/3  number_of_hidden_layers=12 weight_decay=0.0001235…  val/loss 0.1036   0.3 s"
    assert label(LONG, place.names) == "number_of_hidden_layers=12 weight_decay=0.0001235 seed=0"


@pytest.mark.parametrize("length", [1, 10, 30, 50, 70, 200])
@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_no_line_of_a_job_is_too_long(length: int, count: int) -> None:
    names = [f"test/a_long_name_of_a_metric_{i}" for i in range(count)]
    given = content(metrics=dict.fromkeys(names, -1.2345e-10), tested=names)
    line = job_line(Place(number=123, jobs=456, width=length), [f"k={'v' * length}"], given, "finished before")
    assert len(line) <= 80
    assert line.startswith("123/456  k=v")
    assert "val/loss 0.1036" in line
    assert line.endswith("finished before")


def test_keys_with_one_last_word_stay_whole() -> None:
    own = ["model.encoder.width=1", "model.decoder.width=2", "model.network.depth=3"]
    assert places.short_names([own]) == {"model.network.depth": "depth"}


def test_a_failed_job_names_its_folder_on_a_line_of_its_own(tmp_path: Path) -> None:
    words = "failed: data.batch_size=5000 is larger than the 1,000 training samples; use data.batch_size=full"
    lines = failed_lines(Place(2, 3), ["data.batch_size=5000"], words, tmp_path / "a").splitlines()
    assert lines == [
        "2/3  data.batch_size=5000  failed: data.batch_size=5000 is larger than the 1,000",
        "     training samples; use data.batch_size=full",
        f"     {tmp_path / 'a'}",
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"metrics": {"test_loss": 1.0, "f1": 0.5}, "tested": ["test_loss", "f1"]}, ["f1 0.5", "test_loss 1"]),
        ({"metrics": {"test_loss": 1.0, "test/f1": 0.5, "val": 3}}, ["test/f1 0.5", "test_loss 1"]),
        ({"metrics": {"val": 3.0}, "tested": []}, []),
    ],
)  # fmt: skip
def test_all_that_was_logged_in_the_test(given: dict[str, Any], expected: list[str]) -> None:
    assert sweep_lines.tested(given) == expected


def test_the_best_in_80_columns(tmp_path: Path) -> None:
    short = Best(["data.batch_size=16"], "val/loss", (0.0123,), tmp_path / "batch_size=16")
    assert best_lines(tmp_path, short, "4 runs") == [
        "best of 4 runs: data.batch_size=16  val/loss 0.0123",
        "its folder batch_size=16",
    ]
    many = Best(LONG, "val/loss", (1.0, 2.0), None)
    lines = best_lines(tmp_path, many, "4 runs")
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1] == f"{' ' * 16}val/loss 1.5, mean of 2 seeds (1 to 2)"


def test_the_command_is_ready_to_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert report_lines(Path("runs/x/a b")) == ["report     python scripts/report.py 'runs/x/a b'"]
    long = Path("runs") / ("x" * 60)
    assert report_lines(long) == ["report", f"python scripts/report.py {long}"]


class SlurmLauncher:
    """Its jobs say nothing here."""


def test_jobs_that_run_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A line for each, from its result.json; one that left nothing is told too."""
    monkeypatch.chdir(tmp_path)
    jobs = [["+experiment=x", f"a={i}"] for i in (1, 2, 3)]
    table = Table(multirun(tmp_path, "+experiment=x", "a=1,2,3"), jobs, SlurmLauncher())
    assert here().jobs == 3, "the jobs find it in their environment"
    with table.at_work():
        for i in (1, 2):
            (tmp_path / f"a={i}").mkdir()
            best = {"monitor": "val/loss", "value": 1 / i, "mode": "min"}
            result = content(best=best, overrides=["a=" + str(i), "+experiment=x", "resume=auto"])
            (tmp_path / f"a={i}/result.json").write_text(json.dumps(result))
    table.end({})
    assert capsys.readouterr().out.splitlines() == [
        "3 jobs with SlurmLauncher: a line for each that ends",
        "1/3  a=1  val/loss 1        test/f1 0.5      test/loss 0.1184   0.3 s",
        "2/3  a=2  val/loss 0.5      test/f1 0.5      test/loss 0.1184   0.3 s",
        "3/3  a=3  failed: no result; the launcher's logs say why",
        "     .",
        "",
        "jobs       2 finished, 1 without a result",
        "           to try again what is not finished: the same command with resume=retry",
        "best of 2 runs: a=2  val/loss 0.5",
        "its folder a=2",
        "report     python scripts/report.py .",
    ]
    assert here().jobs is None


class Terminal:
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_long_lines_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = "runs/" + "x" * 90
    text = "\n" + "reason     " + "word " * 20 + path
    lines = wrapped(text, Terminal()).splitlines()
    assert lines[0] == ""
    assert all(len(line) <= 80 for line in lines[:-1])
    assert (lines[2][:15], lines[-1].strip()) == ("           word", path)
    assert wrapped(text, io.StringIO()) == text


def test_of_processes_beside_each_other_the_first_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """torchrun starts the sweep in each: the others may look before the first has left its result."""
    monkeypatch.chdir(tmp_path)
    jobs = [["+experiment=x", f"a={i}"] for i in (1, 2)]
    said: list[str] = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        Table(multirun(tmp_path, "+experiment=x", "a=1,2"), jobs, SlurmLauncher()).end({})
        said.append(capsys.readouterr().out)
    assert "2 without a result" in said[0]
    assert said[1] == ""
