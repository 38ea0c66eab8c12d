"""Jobs that a cluster makes, preempts and starts again: on a stand-in for SLURM (tests/support/slurm)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import PROJECT, run_apart, wait_for
from forked import Forked
from slurm import Slurm

from metronome.app.sweeps.cluster import gpus_per_node, jobs_in_queue, keep_quiet, lost_jobs, tasks_per_node
from metronome.units import InputError

JOB = ("+experiment=linear", "trainer.precision=64-true", "trainer.max_epochs=2", "logger=csv")
TWO_NODES = (*JOB, "trainer=ddp_cpu", "trainer.num_nodes=2", "trainer.devices=1")
TWO_PROCESSES = (*JOB, "trainer=ddp_cpu")  # the same, without nodes
PATHS = os.pathsep.join([str(PROJECT / "src"), str(PROJECT / "tests/support")])


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path / "slurm")
    yield slurm
    slurm.close()


def happens(folder: Path, what: str, number: str = "USR2", step: int = 110) -> tuple[str, ...]:
    """In the middle of the second of two epochs of 100 steps."""
    values = {
        "_target_": "slurm.training.Happens",
        "step": step,
        "what": what,
        "signal": number,
        "mark": folder / "marks",
    }
    return tuple(f"+callbacks.happens.{key}={value}" for key, value in values.items())


def what_it_came_to(results: list[Path]) -> dict[str, Any]:
    """Of each job, by its seed."""
    found = {}
    for file in results:
        content = json.loads(file.read_text())
        kept = {name: content[name] for name in ("status", "progress", "metrics", "best", "weights_sha256")}
        curves = next(file.parent.rglob("metrics.csv")).read_text()
        found[content["seed"]] = kept | {"curves": _without_times(curves)}
    return found


def _without_times(curves: str) -> list[dict[str, str]]:
    """The rows, but for those of how long a step took; with these gone a row may hold nothing but its step."""
    names, *lines = [line.split(",") for line in curves.splitlines()]
    rows = [{name: value for name, value in zip(names, line, strict=True) if value} for line in lines]
    rows = [{name: value for name, value in row.items() if "/ms_" not in name} for row in rows]
    return [row for row in rows if set(row) - {"step"}]


def alone(folder: Path, *arguments: str) -> dict[str, Any]:
    """The same without a cluster."""
    folder.mkdir()
    done = run_apart(folder, "train", *arguments, PYTHONPATH=PATHS)
    assert done.code == 0, done.out + done.err
    return what_it_came_to([run / "result.json" for run in done.runs])


def sweep(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(PROJECT / "scripts/train.py"), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": PATHS}, capture_output=True, text=True, timeout=400
    )
    return done.returncode, done.stdout + done.stderr


# ---- on the stand-in ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("what", ["announced", "preempted"])
def test_a_batch_script(what: str, slurm: Slurm, tmp_path: Path) -> None:
    """With SLURM's own means: told of its end it asks for itself to be queued again, once; preempted it does not."""
    script = tmp_path / "job.sh"
    command = [str(PROJECT / "scripts/train.py"), *TWO_NODES, *happens(tmp_path, what, "USR1")]
    script.write_text(
        "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n#SBATCH --signal=SIGUSR1@90\n#SBATCH --requeue\n"
        f"srun --kill-on-bad-exit=1 {sys.executable} {' '.join(command)}\n"
    )
    environment = slurm.environment | {"PYTHONPATH": PATHS}
    subprocess.run(["sbatch", script.name], cwd=tmp_path, env=environment, check=True)
    (job,) = slurm.wait()
    output = (tmp_path / f"slurm-{job.id}.out").read_text()
    assert job.log == ["PENDING", "RUNNING", "REQUEUED", "PENDING", "RUNNING", "COMPLETED"], output
    assert (slurm.folder / "requeued").read_text().split() == [job.name], "asked for once"
    assert ("SLURM starts job" in output) == (what == "announced")
    (run,) = tmp_path.glob("runs/linear/*")
    assert 110 <= json.loads((run / "result.json").read_text())["resumed_from"]["step"] < 200
    assert run.name.startswith(f"slurm_{job.id}_0")
    assert what_it_came_to([run / "result.json"]) == alone(tmp_path / "alone", *TWO_PROCESSES)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm", "submitit_slurm"])
def test_a_sweep_of_multi_node_jobs_that_are_preempted(launcher: str, slurm: Slurm, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    more = ["hydra.launcher.nodes=2"] if launcher == "submitit_slurm" else []
    arguments = (
        *TWO_NODES, *happens(tmp_path, "announced"), f"hydra/launcher={launcher}", *more, "resume=auto",
        "hydra.launcher.array_parallelism=1", "-m", "seed=0,1",
    )  # fmt: skip
    code, output = sweep(tmp_path, slurm.environment, *arguments)
    assert code == 0, output
    jobs = slurm.wait()
    assert [job.log.count("REQUEUED") for job in jobs] == [1, 1]
    assert sorted((slurm.folder / "requeued").read_text().split()) == [job.name for job in jobs], "each asked for once"
    assert [job.environment["METRONOME_SWEEP"] != "" for job in jobs] == [True, True]
    lines = [line for line in output.splitlines() if " val/loss " in line and "/2 " in line]
    assert sorted(line[:11] for line in lines) == ["1/2  seed=0", "2/2  seed=1"], output
    assert "stopped" not in output
    results = list(tmp_path.glob("runs/linear/*/*/result.json"))
    assert what_it_came_to(results) == alone(tmp_path / "alone", *TWO_PROCESSES, "-m", "seed=0,1")
    if launcher == "slurm":
        code, output = sweep(tmp_path, slurm.environment, *arguments)
        assert code == 0, output
        assert output.count("finished before\n") >= 2
        assert [job.code for job in slurm.wait()] == [0] * 4
        assert len(list(tmp_path.glob("runs/linear/*/*/result.json"))) == 2


@pytest.mark.slow
def test_a_job_that_is_cancelled_takes_no_other_along(slurm: Slurm, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    cancelled = happens(tmp_path, "announced", "TERM")[:-1]  # as scancel does
    arguments = ("+experiment=linear", "trainer=cpu", "logger=none", "hydra/launcher=slurm", "resume=auto",
                 "hydra.launcher.array_parallelism=1", "-m", "seed=0,1")  # fmt: skip
    code, output = sweep(tmp_path, slurm.environment, *arguments, *cancelled, f"+callbacks.happens.mark={tmp_path}/m")
    assert code == 1
    assert "Traceback" not in output
    assert "jobs       2 stopped" in output
    assert len(slurm.jobs) == 2
    assert "to try again what is not finished" in output


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_submitit_on_this_machine(trainer: str, tmp_path: Path) -> None:
    """It has no number of restarts, and its process may not be the one that trains."""
    pytest.importorskip("submitit")
    job = (*JOB, f"trainer={trainer}")
    arguments = (*job, *happens(tmp_path, "told"), "hydra/launcher=submitit_local", "-m", "seed=0")
    code, output = sweep(tmp_path, dict(os.environ), *arguments)
    assert code == 0, output
    (log,) = tmp_path.rglob("*_0_log.out")
    assert log.read_text().count("Starting with") == 2
    assert log.read_text().count("Requeued job") == 1
    (result,) = tmp_path.glob("runs/linear/*/*/result.json")
    assert json.loads(result.read_text())["resumed_from"]["step"] >= 110, "saved before it left"
    assert what_it_came_to([result]) == alone(tmp_path / "alone", *job, "-m", "seed=0")


# ---- other launchers ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "ray"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sweep_side_by_side_that_was_ended_goes_on(launcher: str, number: int, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    job = (*JOB[:2], "trainer=cpu", "logger=csv", "trainer.max_epochs=10")
    more = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    arguments = [*job, f"hydra/launcher={launcher}", *more, "resume=auto", "-m", "seed=0,1,2"]
    command = [sys.executable, str(PROJECT / "scripts/train.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": PATHS, "RAY_AUTH_MODE": "disabled"}
    said = tmp_path / "said"  # a pipe would stay open as long as what is left of the launcher's processes
    with said.open("w") as file, subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=file) as process:
        wait_for(lambda: list(tmp_path.glob("runs/*/*/*/result.json")) or process.poll() is not None)
        os.kill(process.pid, number)
        process.wait(timeout=100)
    errors = said.read_text()
    if launcher != "ray" or number != signal.SIGTERM:  # for which Ray has a handler of its own: now and then it aborts
        assert process.returncode == (143 if number == signal.SIGTERM else -number)
        assert ("go on      the same command with resume=auto" in errors) == (number == signal.SIGTERM)
    wait_for(lambda: not _works(tmp_path))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/*/*/result.json")}
    finished = [file for file in before if json.loads(file.read_text())["status"] == "finished"]
    assert finished
    code, output = sweep(tmp_path, environment, *arguments)
    assert code == 0, output
    assert all(file.stat().st_mtime_ns == before[file] for file in finished), "not made again"
    results = list(tmp_path.glob("runs/*/*/*/result.json"))
    assert what_it_came_to(results) == alone(tmp_path / "alone", *job, "-m", "seed=0,1,2")


def _works(folder: Path) -> bool:
    """Whether a process works in a folder of a run."""
    from metronome.runs.folders import hold

    for lock in folder.glob("runs/*/*/*/.lock"):
        try:
            hold(lock.parent).close()
        except InputError:
            return True
    return False


@pytest.mark.slow
def test_told_to_stop_between_two_jobs(tmp_path: Path) -> None:
    stop = "+hydra.callbacks.stop._target_=slurm.stopping.StopAfterAJob"
    job = ("+experiment=linear", "trainer=cpu", "trainer.max_epochs=1", "data.batch_size=250", "logger=none")
    with Forked(tmp_path, "train", *job, stop, "-m", "seed=0,1") as run:
        done = run.done()
    assert done.code == 143
    assert len(done.runs) == 1
    assert done.err.splitlines()[-1] == "go on      the same command with resume=auto"
    assert "Traceback" not in done.err


# ---- what a job asks of its cluster -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "tasks", "gpus"),
    [
        ({"devices": 8, "accelerator": "gpu"}, 8, 8),
        ({"devices": 2, "accelerator": "cpu"}, 2, None),
        ({"devices": 1, "accelerator": "auto"}, 1, None),
    ],
)
def test_as_many_devices_as_the_trainer_takes(trainer: dict[str, Any], tasks: int, gpus: int | None) -> None:
    assert (tasks_per_node({"trainer": trainer}), gpus_per_node({"trainer": trainer})) == (tasks, gpus)


@pytest.mark.parametrize("devices", ["auto", -1, [0, 1], True])
def test_how_many_must_be_said(devices: Any) -> None:
    with pytest.raises(InputError, match=r"say how many, as in trainer\.devices=8"):
        tasks_per_node({"trainer": {"devices": devices}})


def test_the_jobs_that_stay_in_the_queue(tmp_path: Path) -> None:
    for name in ("101_0/101_submission.sh", "101_1/101_submission.sh", "205/205_submission.sh"):
        (tmp_path / ".submitit" / name).parent.mkdir(parents=True)
        (tmp_path / ".submitit" / name).touch()
    assert jobs_in_queue(tmp_path) == ["101", "205"]
    assert jobs_in_queue(tmp_path / "none") == []


def test_ray_says_nothing_twice_and_what_is_given_counts() -> None:
    launcher = SimpleNamespace(ray_cfg=SimpleNamespace(init={"log_to_driver": True}))
    keep_quiet(launcher)
    assert launcher.ray_cfg.init == {"log_to_driver": True, "logging_level": "error"}
    keep_quiet(object())


def test_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    launcher = type("SlurmLauncher", (), {})()
    with pytest.raises(InputError, match="there is no SLURM here"), lost_jobs(launcher):
        pass
