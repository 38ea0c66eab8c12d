"""A sweep: one folder, one result, one line a job; a job that fails takes no other down."""

import json
from typing import Any

import pytest
from commands import Commands
from forked import run_forked
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins

from metronome.app.console.resolvers import MAX_NAME, job_name, run_name

JOB = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "logger=none")


@pytest.mark.slow
def test_six_jobs(commands: Commands) -> None:
    done = commands("train", *JOB, "-m", "data.batch_size=16,64,256", "seed=0,1")
    assert done.code == 0, done.err
    assert len(done.results) == 6
    steps = {(result["plan"]["batch_size"], result["seed"]): result["progress"]["steps"] for result in done.results}
    assert steps == {(16, 0): 63, (16, 1): 63, (64, 0): 16, (64, 1): 16, (256, 0): 4, (256, 1): 4}
    names = {run.name for run in done.runs}
    assert "batch_size=16,seed=0" in names
    assert len({run.parent for run in done.runs}) == 1
    assert done.runs[0].parent.name.startswith("sweep_")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == [f"{i}/6" for i in range(1, 7)]
    assert all(len(line) <= 80 for line in lines)
    assert not any("sweep_" in line for line in lines[:6]), "the folder is named at the end"
    # Worked out from the results: of each size the mean over the seeds.
    values: dict[int, list[float]] = {16: [], 64: [], 256: []}
    for result, line in zip(
        sorted(done.results, key=lambda r: (r["plan"]["batch_size"], r["seed"])), lines, strict=False
    ):
        values[result["plan"]["batch_size"]].append(result["best"]["value"])
        size, seed = result["plan"]["batch_size"], result["seed"]
        best, test, seconds = (result["best"]["value"], result["metrics"]["test/loss"], result["seconds"]["fit"])
        assert f" data.batch_size={size} seed={seed} " in line
        assert f"  val/loss {best:.4g} " in line
        assert f"  test/loss {test:.4g} " in line
        assert line.endswith(f"  {seconds:.1f} s")
    means = {size: sum(found) / 2 for size, found in values.items()}
    size = min(means, key=lambda size: means[size])
    low, high = sorted(values[size])
    told = " ".join(done.out.split("\n\n")[1].split())
    folder = done.runs[0].parent.relative_to(commands.folder)
    assert told == (
        f"best of 6 runs: data.batch_size={size} val/loss {means[size]:.4g}, mean of 2 seeds ({low:.4g} to {high:.4g}) "
        f"report python scripts/report.py {folder}"
    )


def test_a_failing_job(commands: Commands) -> None:
    done = commands("train", *JOB, "-m", "data.batch_size=16,5000,64")
    assert done.code == 1
    assert [result["status"] for result in done.results].count("finished") == 2
    assert len(done.jobs) == 3
    folder = next(path.parent for path in done.folder.glob("runs/linear/*/batch_size=5000"))
    failed = "2/3 data.batch_size=5000 failed: data.batch_size=5000 is larger than the 1,000 training samples; use "
    assert done.jobs[1] == f"{failed}data.batch_size=full {folder.relative_to(done.folder)}/batch_size=5000"
    assert "\njobs       2 finished, 1 failed\n" in done.out
    assert "with resume=retry\nbest of 2 runs: data.batch_size=" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert "Traceback" not in done.out + done.err
    assert done.err == ""  # the job's line says it all


def test_a_job_whose_code_fails(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a user's mistake: the line names the error, the log has its traceback."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("mine")

    monkeypatch.setattr("metronome.models.Regressor.training_step", broken)
    done = commands("train", *JOB, "-m", "seed=0,1")
    assert done.code == 1
    assert done.out.count("failed: ZeroDivisionError") == 2
    for run in done.runs:
        assert "ZeroDivisionError" in json.loads((run / "result.json").read_text())["error"]
        assert "Traceback" in (run / "train.log").read_text()


def test_two_processes_in_a_sweep(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Lightning's way to start processes under Hydra would start the whole sweep in each of them, and hang."""
    folder = tmp_path_factory.mktemp("ddp")
    arguments = ("-m", "trainer=ddp_cpu", "seed=0,1", "trainer.max_epochs=1", "data.batch_size=100")
    done = run_forked(folder, "train", "+experiment=linear", *arguments)
    assert done.code == 0, done.err
    assert [result["progress"]["steps"] for result in done.results] == [10, 10]
    assert [result["plan"]["devices"] for result in done.results] == [2, 2]
    assert len({run.parent for run in done.runs}) == 1
    assert len(done.jobs) == 2
    assert "\n2 runs: val/loss " in done.out, "only the seed differs"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("data.batch_size=16,seed=0", "batch_size=16,seed=0"),
        ("data.eval_batch_size=[1,2],seed=0", "data.eval_batch_size=[1,2],seed=0"),
        ("", "job_3"),
        ("data=my/data,x='a b'", "data=my_data,x=_a_b"),
        ("+experiment=mine,seed=0", "seed=0"),  # the sweep lies in runs/mine
        ("+experiment=yours,seed=0", "+experiment=yours,seed=0"),
        ("+experiment=mine", "job_3"),
    ],
)
def test_names_of_jobs(overrides: str, name: str) -> None:
    assert job_name(overrides, 3, "runs/mine/sweep_1") == name


def test_a_sweep_over_experiments(commands: Commands) -> None:
    done = commands("train", "-m", "+experiment=linear,digits", "trainer=cpu", "trainer.max_steps=1", "logger=none")
    assert done.code == 0, done.err
    assert {result["experiment"] for result in done.results} == {"linear", "digits"}
    assert [job.split()[:2] for job in done.jobs] == [["1/2", "+experiment=linear"], ["2/2", "+experiment=digits"]]
    assert "\nno best is named: the runs differ in experiment\n" in done.out


@pytest.mark.parametrize(
    ("jobs", "overrides", "expected"),
    [
        (None, ["b=1,2"], [["b=1"], ["b=2"]]),
        ([], [], [[]]),
        (
            [["a=1"], ["a=2", "c=3"]],
            ["b=1,2"],
            [["a=1", "b=1"], ["a=1", "b=2"], ["a=2", "c=3", "b=1"], ["a=2", "c=3", "b=2"]],
        ),
        ([["+a=1"], ["+a=2"]], [], [["+a=1"], ["+a=2"]]),
        # the command line, which comes last, wins: over jobs that set the same key, which are left out whole,
        ([["a=1"], ["a=2", "c=3"], ["d=4"]], ["a=5"], [["d=4", "a=5"]]),
        ([["+a=1"], ["a=2"]], ["a=5"], [["a=5"]]),
        # and over params
        ([], ["seed=0,1", "++seed=5"], [["++seed=5"]]),
        ([], ["+experiment=x,y", "experiment=x", "b=1"], [["experiment=x", "b=1"]]),
    ],
)
def test_jobs_and_combinations(jobs: Any, overrides: list[str], expected: list[list[str]]) -> None:
    # Hydra loads plugins itself; a class imported here would have a base of before that.
    ours: Any = Plugins.instance().class_name_to_class["hydra_plugins.metronome.Sweeper"]
    sweeper = ours(jobs=jobs, max_batch_size=None)
    parsed = OverridesParser.create().parse_overrides(overrides)
    assert sweeper.split_arguments(parsed, None) == [expected]
    assert sweeper.split_arguments(parsed, 1) == [[job] for job in expected]


def test_names_of_jobs_stay_short_and_different() -> None:
    first, second = (job_name("x=" + "1" * 300 + end, 0) for end in "ab")
    assert len(first) == MAX_NAME
    assert first != second


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"}, "slurm_77_0"),
    ],
)
def test_processes_that_others_start_find_the_same_folder(
    environment: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert run_name() == name


def test_names_of_runs_differ() -> None:
    assert len({run_name() for _ in range(50)}) == 50
