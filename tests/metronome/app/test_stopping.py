"""A run that is told to stop leaves its result, and no process behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import PROJECT, run_apart
from forked import Forked

from metronome.app.processes import start as processes

ENDLESS = ("+experiment=linear", "budget=300 s", "logger=none")


def start(folder: Path, *arguments: str, endless: bool = True) -> subprocess.Popen:
    job = (*(ENDLESS if endless else ()), "hydra.run.dir=run", *arguments)
    command = [sys.executable, str(PROJECT / "scripts/train.py"), *job]
    # SIGINT is ignored in what a shell starts in the background, and so in what runs these tests there.
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_in_training(trainer: str, number: int, code: int, tmp_path: Path) -> None:
    process = start(tmp_path, f"trainer={trainer}")
    wait_for((tmp_path / "run/checkpoints/last.ckpt").exists)
    started = children(process.pid)
    os.kill(process.pid, number)
    assert process.wait(60) == code
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["status"] == "stopped"
    assert result["progress"]["steps"] >= 100
    # The step was finished, and it is that step which was saved.
    assert (
        torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
        == result["progress"]["steps"]
    )
    wait_for(lambda: not any(alive(pid) for pid in started), 10)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_of_two_processes_is_told(number: int, code: int, tmp_path: Path) -> None:
    """Both stop after the same step, and save it."""
    process = start(tmp_path, "trainer=ddp_cpu")
    wait_for((tmp_path / "run/checkpoints/last.ckpt").exists)
    os.kill(children(process.pid)[1], number)
    assert process.wait(60) == code
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["status"] == "stopped"
    assert (
        torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
        == result["progress"]["steps"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_preempted_again_and_again(trainer: str, tmp_path: Path) -> None:
    """SIGTERM, and the same command again: at last the result of a run that was left alone."""
    job = ("+experiment=digits", "model=mlp", "model.network.dropout=0.2", f"trainer={trainer}", "num_threads=1")
    whole = run_apart(tmp_path, "train", *job, "hydra.run.dir=whole")
    assert whole.code == 0, whole.err
    told = 0
    for _ in range(20):
        process = start(tmp_path, *job, "resume=auto", endless=False)
        begun = time.monotonic()
        # Told some moments after it has begun to train, wherever it is then.
        wait_for(lambda p=process, b=begun: p.poll() is not None or time.monotonic() > b + 9)
        if process.poll() is None and told < 3:
            os.kill(process.pid, signal.SIGTERM)
            told += 1
        if process.wait(120) == 0:
            break
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "run")]
    for name in ("status", "weights_sha256", "metrics", "progress"):
        assert results[0][name] == results[1][name], name


@pytest.mark.slow
def test_stopped_before_training(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer=ddp_cpu")
    wait_for((tmp_path / "run/plan.json").exists)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "stopped"


def test_a_process_that_comes_too_late_ends(tmp_path: Path) -> None:
    """The one that started it was killed while it was still importing: it must not train on its own."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / "waits.py").write_text(
        "import time, metronome.app.worker as worker\nworker.Run.load = lambda *_: time.sleep(600)\n"
        "worker.main(worker.Path('.'), {})"
    )
    parent = gone.stdout.strip()
    with Forked(tmp_path, tmp_path / "waits.py", METRONOME_PARENT=parent, LOCAL_RANK="0") as late:
        assert late.wait(60) == 1


@pytest.mark.parametrize("dead", [0, 1])
def test_a_process_that_dies_before_the_others_have_met_it(dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other would wait for it for ever, whichever of them it is."""
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.2)
    commands = [["sleep", "600"], ["sleep", "600"]]
    commands[dead] = ["false"]
    started = [subprocess.Popen(command) for command in commands]
    processes._wait(started)
    assert sorted(process.returncode for process in started) == [-signal.SIGKILL, 1]


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer=ddp_cpu")
    wait_for((tmp_path / "run/checkpoints/last.ckpt").exists)
    started = children(process.pid)
    assert len(started) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in started), 20)
