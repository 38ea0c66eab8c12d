"""Reports from the command line: of real runs, and what is said to a wrong path."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PROJECT, Commands
from matplotlib.figure import Figure


def test_report_of_a_sweep(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three batch sizes; the job that cannot be is told, and the others are shown. To draw the figures takes longer
    than the rest, and is left to the tests of the report."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(b"drawn"))
    given = ["+experiment=linear", "trainer.max_epochs=2", "trainer.log_every_n_steps=1", "trainer=cpu"]
    done = commands("train", *given, "-m", "data.batch_size=250,500,2000")
    assert done.code == 1, "batches of 2,000 from 1,000 samples"
    (sweep,) = (commands.folder / "runs/linear").glob("sweep_*")
    told = commands("report", str(sweep))
    assert (told.code, told.err) == (0, "")
    assert told.out.split() == ["report", str((sweep / "report/report.html").relative_to(commands.folder))]
    page = (sweep / "report/report.html").read_text()
    assert "3 (2 finished, 1 failed) in 3 groups" in page
    assert "is larger than the 1,000 training samples" in page
    figures = {path.stem for path in (sweep / "report").glob("*.png")}
    assert figures >= {"curves_train_loss", "curves_val_loss", "sweep_data_batch_size", "tradeoff"}
    with open(sweep / "report/summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert {(row["data.batch_size"], row["steps"], row["samples"]) for row in rows if row["status"] == "finished"} == {
        ("250", "8", "2000"),
        ("500", "4", "2000"),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: PATH; --help shows"),
        (["nowhere"], "no folder nowhere; give that of a run, of a sweep, or one above, e.g. runs"),
        (["file.txt"], "file.txt is a file; give the folder of a run"),
        (["empty"], "no run in empty: the folder of a run holds config.yaml; make one with python scripts/train.py"),
        (["empty", "other"], "no run in empty, other"),
        (["nowhere.csv"], "cannot read nowhere.csv: No such file or directory; give the summary.csv of a report"),
        (["table.csv"], "table.csv is no summary of runs: no column run; give the summary.csv of a report"),
        (["torn"], "no run in torn (.: config.yaml: "),
        (["run", "--out", "file.txt"], "file.txt is a file; give a folder with --out, e.g. --out report"),
        (["run", "--out", "other"], "other holds something that is no report; give a new folder"),
        (["run", "--out", "file.txt/inner"], "cannot write to file.txt/inner: Not a directory; give another folder"),
        ([""], "the name of a folder is empty"),
        (["run", "--out", ""], "the name of a folder is empty; give one, or leave --out away"),
        (["run", "--format=pdf"], "unrecognized arguments: --format=pdf; --help shows"),
    ],
)
def test_mistakes(arguments: list[str], words: str, commands: Commands) -> None:
    folder = commands.folder
    for name in ("empty", "other", "torn", "run"):
        (folder / name).mkdir()
    (folder / "file.txt").write_text("mine")
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / "other/mine.txt").write_text("mine")
    (folder / "torn/config.yaml").write_text("experiment: [")
    (folder / "run/config.yaml").write_text("experiment: digits\noverrides: []\n")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    done = commands("report", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert words in done.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(commands: Commands) -> None:
    (commands.folder / "run").mkdir()
    (commands.folder / "run/config.yaml").write_text("experiment: digits\n")
    (commands.folder / "run").chmod(0o555)
    done = commands("report", "run")
    assert (done.code, done.err) == (
        2,
        "error: cannot write to run/report: Permission denied; give another folder with --out\n",
    )


def test_no_torch(tmp_path: Path) -> None:
    """A report starts fast: neither torch, nor lightning, nor tensorflow are imported for it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("experiment: digits\noverrides: []\n")
    script = str(PROJECT / "scripts/report.py")
    program = f"import runpy, sys; sys.argv = {[script, 'run']!r}; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    program += "print(sorted({'torch', 'lightning', 'tensorflow', 'pandas', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout.splitlines() == ["report     run/report/report.html", "[]"], done.stderr
