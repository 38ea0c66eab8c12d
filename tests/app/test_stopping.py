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
from commands import PROJECT

ENDLESS = ("+experiment=linear", "budget=300 s", "logger=none", "hydra.run.dir=run")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(PROJECT / "scripts/train.py"), *ENDLESS, *arguments]
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
    wait_for(lambda: not any(alive(pid) for pid in started), 10)


@pytest.mark.slow
def test_stopped_before_training(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer=ddp_cpu")
    wait_for((tmp_path / "run/plan.json").exists)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 143
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "stopped"


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    process = start(tmp_path, "trainer=ddp_cpu")
    wait_for((tmp_path / "run/checkpoints/last.ckpt").exists)
    started = children(process.pid)
    assert len(started) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in started), 20)
