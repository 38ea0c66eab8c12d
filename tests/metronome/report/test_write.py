"""A whole report: what is in it, what is told of damage, and where it may be written."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import Page

from metronome.report import report
from metronome.units import InputError

MakeRun = Callable[..., Path]


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def sweep(make_run: MakeRun, tmp_path: Path) -> Path:
    """Three batch sizes with two seeds; one job failed, one is not finished."""
    for size in (4, 8, 16):
        for seed in (0, 1):
            name, config = f"sweep/{size}-{seed}", {"data": {"batch_size": size}}
            other: dict[str, Any] = {}
            if (size, seed) == (8, 1):
                other = {"status": "failed", "error": "the <b>loss</b> is not finite", "metrics": {}, "best": None}
            elif (size, seed) == (16, 1):
                other = {"status": None, "points": {"val/loss": [(2, 1.0, 1001.0), (5, 0.5, 1002.0)]}}
            make_run(name, [f"data.batch_size={size}"], seed, val_loss=0.1 * size + seed / 10, config=config, **other)
    return tmp_path / "runs" / "sweep"


def test_the_page(sweep: Path) -> None:
    written = report(sweep)
    assert written == sweep / "report" / "report.html"
    page = Page(written)
    _, groups, runs = range(3)
    assert page.column(groups, "data.batch_size") == ["4", "8", "16"]
    assert page.column(groups, "runs") == ["2", "2", "2"]
    assert page.column(groups, "status") == ["finished", "1 finished, 1 failed", "1 finished, 1 unfinished"]
    assert page.column(groups, "best val/loss") == ["0.45 ± 0.071", "0.8", "1.6"]
    assert page.column(groups, "steps") == ["12"] * 3
    assert sorted(page.column(runs, "seed")) == ["0"] * 3 + ["1"] * 3
    assert len(page.column(runs, "folder")) == 6
    assert "the &lt;b&gt;loss&lt;/b&gt; is not finite" in page.text
    assert "unfinished (it runs, or was cut off)</strong> after 6 steps" in page.text
    assert page.tags.count("img") == page.tags.count("source") == 5, "each for a phone, too"
    assert page.text.count("data:image/png;base64,") == 10
    assert page.text.count('alt="') == 5
    files = {path.name for path in written.parent.iterdir()}
    assert files == {
        "report.html", "summary.csv", "curves_train_loss.png", "curves_val_loss.png", "sweep_data_batch_size.png",
        "tradeoff.png", "fitting.png",
    }  # fmt: skip


def test_nothing_is_loaded_from_elsewhere(sweep: Path) -> None:
    page = Page(report(sweep))
    assert {address.split(",")[0] for address in page.addresses} == {"data:image/png;base64"}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|https?://", page.text)
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    assert page.tags.count("button") == sum(len(table[0]) for table in page.tables)
    assert page.tags.count("script") == 1


def test_everything_is_escaped(make_run: MakeRun, tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&\'"'
    for i in range(2):
        metrics = {evil: 1.0 + i, "val/loss": 1.0}
        given = [f"+{evil}.x={evil}{i}", f"shared={evil}"]
        config = {"experiment": evil, "callbacks": {"checkpoint": {"monitor": evil, "mode": "min"}}}
        points = {evil: [(0, 1.0, 1001.0), (1, 1.0, 1002.0)]}
        make_run(f"a{i}", given, points=points, metrics=metrics, config=config, error=evil, status="failed",
                 versions={evil: evil}, git_commit=evil, best={"monitor": evil, "value": 1.0})  # fmt: skip
    (tmp_path / "runs/a0/events.out.tfevents.<script>").write_bytes(b"\xff" * 100)
    page = Page(report(tmp_path / "runs", title=evil))
    assert page.tags.count("script") == 1
    assert "alert" in page.text


DAMAGE = {
    "empty": b"",
    "bytes": b"\xff\xfe\x00 these are no letters, nor are they records",
    "cut": b'{"status": ',
    "list": b"[1, 2]",
    "deep": b'{"a": [' * 3_000,
    "other": b'{"plan": 3, "metrics": [], "seconds": 1}',
}


@pytest.mark.parametrize(
    ("name", "unread"),
    [
        ("result.json", {"empty", "bytes", "cut", "list", "deep"}),  # a result without a status is one all the same
        ("plan.json", set(DAMAGE)),
        ("config.yaml", {"empty", "bytes", "cut", "deep"}),  # a list, or a table without experiment, is another's
        ("events.out.tfevents.1000.host.1.0", {"bytes", "deep", "other"}),  # short ones are being written
    ],
)
def test_damaged_files(name: str, unread: set[str], make_run: MakeRun, tmp_path: Path) -> None:
    """The report is written, with what can be read; and says what cannot, and why."""
    make_run("good")
    for seed, (damage, content) in enumerate(DAMAGE.items()):
        (make_run(f"bad-{damage}", seed=seed + 1) / name).write_bytes(content)
    page = Page(report(tmp_path / "runs"))
    said = page.text[page.text.find("<h2>Not read</h2>") :]
    assert set(re.findall(f"<li>bad-([a-z]+): {name}: .+?</li>", said)) == unread
    listed = set(page.column(-1, "folder"))
    assert listed == {"good", *(f"bad-{damage}" for damage in DAMAGE)} if name != "config.yaml" else {"good"}


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_random_damage(rounds: int, sweep: Path, tmp_path: Path) -> None:
    """Bytes changed, cut off, or doubled in many files at once: there is a report each time."""
    for seed in range(rounds):
        random.seed(seed)
        root = shutil.copytree(sweep, tmp_path / f"damaged-{seed}")
        for file in sorted(path for path in root.rglob("*") if path.is_file() and random.random() < 0.6):
            content = bytearray(file.read_bytes())
            at = random.randrange(len(content))
            kind = random.random()
            if kind < 0.6:
                for _ in range(random.randint(1, 8)):
                    content[random.randrange(len(content))] = random.choice([random.randrange(256), *b'0-9"'])
            elif kind < 0.8:
                del content[at:]
            else:
                content[at:at] = content[: random.randrange(len(content))]
            file.write_bytes(content)
        assert report(root).is_file()


def test_a_result_of_odd_things(make_run: MakeRun, tmp_path: Path) -> None:
    odd = [
        None,
        3,
        "word",
        [],
        {},
        {"steps": "x", "total": None, "monitor": 3, "value": "nan", "step": []},
        True,
        1e400,
    ]
    for i, thing in enumerate(odd):
        keys = ("plan", "progress", "metrics", "best", "seconds", "samples_per_second", "versions", "overrides",
                "error", "seed", "peak_memory_bytes", "git_commit", "resumed_from", "status")  # fmt: skip
        content = json.dumps(dict.fromkeys(keys, thing))
        folder = make_run(
            str(i), points={}, config={"data": thing, "trainer": thing, "callbacks": thing, "overrides": thing}
        )
        (folder / "result.json").write_text(content)
    assert report(tmp_path / "runs").is_file()


def test_the_whole_data_set_is_sorted_by_its_samples(
    make_run: MakeRun, make_plan: Callable[..., Any], tmp_path: Path
) -> None:
    make_run("a", ["data.batch_size=full"], config={"data": {"batch_size": "full"}}, points={},
             the_plan=make_plan(epochs=[(10, 1, 10)]))  # fmt: skip
    make_run("b", ["data.batch_size=4"], points={})
    text = report(tmp_path / "runs").read_text()
    found = re.findall('<td class="word" data-v="([0-9]+)">(4|full)</td>', text)
    assert found == [("4", "4"), ("10", "full"), ("10", "full"), ("4", "4")], "the groups in order, the runs by name"


def test_names_that_differ_in_a_sign_have_a_file_each(make_run: MakeRun, tmp_path: Path) -> None:
    curve = [(0, 1.0, 1001.0), (1, 0.5, 1002.0)]
    make_run("a", points={"val/loss": curve, "val_loss": curve, "val.loss": curve})
    names = {path.name for path in report(tmp_path / "runs").parent.glob("*.png")}
    assert names == {"curves_val_loss.png", "curves_val_loss_.png", "curves_val_loss__.png"}


def test_runs_without_logs(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(str(seed), seed=seed, points={})
    text = report(tmp_path / "runs").read_text()
    assert "2 of 2 runs left no TensorBoard events, and have no curves." in text
    assert "<img" not in text


def test_what_is_no_run_is_left_alone(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("exp/run", points={})
    other = tmp_path / "runs/other"
    other.mkdir()
    (other / "config.yaml").write_text("a: 1\n")
    (run / "checkpoints").mkdir()
    (run / "checkpoints/config.yaml").write_text("experiment: inner\n")
    page = Page(report(tmp_path / "runs"))
    assert page.column(-1, "folder") == ["exp/run"]


def test_several_paths(make_run: MakeRun, tmp_path: Path) -> None:
    """A run that is in two of them counts once."""
    one, _ = make_run("a/one", points={}), make_run("b/two", points={}, seed=1)
    written = report([tmp_path / "runs/a", tmp_path / "runs/b", one])
    assert written == tmp_path / "runs/report/report.html"
    assert Page(written).column(-1, "folder") == ["a/one", "b/two"]


def test_again(make_run: MakeRun, tmp_path: Path) -> None:
    """An earlier report is replaced, with its figures, and nothing else in its folder is touched."""
    make_run("a")
    folder = report(tmp_path / "runs").parent
    (folder / "notes.md").write_text("mine")
    (folder / "photo.png").write_bytes(b"mine")
    assert (folder / "curves_val_loss.png").is_file()
    for events in (tmp_path / "runs/a").glob("*tfevents*"):
        events.unlink()
    report(tmp_path / "runs")
    assert {path.name for path in folder.iterdir()} == {"report.html", "summary.csv", "notes.md", "photo.png"}


def test_a_folder_that_holds_something_else(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", points={})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/report.html").write_text("<h1>mine</h1>")
    with pytest.raises(InputError, match="holds something that is no report"):
        report(tmp_path / "runs", out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["report.html"]


def test_an_error_while_writing_leaves_what_was(make_run: MakeRun, tmp_path: Path, monkeypatch: Any) -> None:
    make_run("a", points={})
    before = report(tmp_path / "runs").read_bytes()
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith("report.html"):
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    for out in (None, tmp_path / "new"):
        with pytest.raises(InputError, match="No space left on device; give another folder"):
            report(tmp_path / "runs", out=out, title="other")
    folder = tmp_path / "runs/report"
    assert {path.name for path in folder.iterdir()} == {"report.html", "summary.csv"}
    assert (folder / "report.html").read_bytes() == before
    assert not (tmp_path / "new").exists()
