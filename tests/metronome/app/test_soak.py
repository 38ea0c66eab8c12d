"""Kills at random moments: every run that is started again ends with the weights of one that was never interrupted.

Slow: `pytest -m slow -s tests/metronome/app/test_soak.py`; METRONOME_KILLS=100 (20 for two processes) is what a release
is held to. Each run is forked from a process that has imported everything, so that its life is training, not importing;
the two processes of one on two devices start from nothing.
"""

import json
import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from forked import Forked

KILLS = int(os.environ.get("METRONOME_KILLS", "10"))
# 260 steps of 5 epochs, dropout, momentum, a schedule by steps, a growing batch, accumulation; checkpoints each 7 steps
# besides those of the validations, which come twice an epoch.
JOB = (
    "+experiment=digits", "model=mlp", "model.network.dropout=0.2", "data.batch_size=16",
    "data.batch_growth={factor: 2, every: 2 epochs}", "trainer.max_epochs=5", "trainer.val_check_interval=0.5",
    "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=1", "callbacks.checkpoint.save_last_every=7steps",
    "hydra.run.dir=run",
)  # fmt: skip


def launch(folder: Path, *arguments: str) -> Forked:
    return Forked(folder, "train", *JOB, *arguments, cold_workers=True)


def result(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "run/result.json").read_text())
    return {name: content[name] for name in ("status", "progress", "metrics", "best", "weights_sha256")}


def run_to_the_end(folder: Path, *arguments: str) -> dict[str, Any]:
    with launch(folder, "resume=auto", *arguments) as process:
        done = process.done()
    assert done.code == 0, done.err[-3000:]
    return result(folder)


def kill(process: Forked, chance: random.Random, begun: Path, seconds: float) -> bool:
    """Kill a run, or one of its processes, at a random moment of its training; False if it had ended before."""
    end = time.monotonic() + 120
    while not begun.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, seconds))
    if process.poll() is not None:
        return False
    strike(process, chance)
    return process.wait(60) != 0


def strike(process: Forked, chance: random.Random) -> None:
    """Kill the whole run or, where it has several processes, now and then one of them."""
    ranks = ranks_of(process.pid)
    if ranks and chance.random() < 0.5:
        send(os.kill, chance.choice(ranks))  # the others are ended by the one that started them
        return
    send(os.killpg, process.pid)
    for rank in ranks:
        if chance.random() < 0.5:
            send(os.kill, rank)


def ranks_of(pid: int) -> list[int]:
    found = []
    with suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"metronome.app.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def send(kill: Any, pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended in this very moment
        kill(pid, signal.SIGKILL)


def survive(folder: Path, runs: int, *arguments: str) -> None:
    """Kill each of so many runs at least once, and let it go on to its end."""
    whole, chance, began = folder / "whole", random.Random(0), time.monotonic()
    whole.mkdir()
    expected = run_to_the_end(whole, *arguments)
    seconds = json.loads((whole / "run/result.json").read_text())["seconds"]["fit"]
    kills, alike = 0, 0
    for number in range(runs):
        victim = folder / f"victim_{number}"
        victim.mkdir()
        killed = True
        while killed:
            killed = kill(launch(victim, "resume=auto", *arguments), chance, victim / "run/config.yaml", seconds)
            kills += killed
            if killed and chance.random() < 0.75:
                break
        alike += run_to_the_end(victim, *arguments) == expected
        assert not list(victim.glob("run/**/*.part"))
        shutil.rmtree(victim)
        if (number + 1) % 10 == 0:
            print(f"{number + 1} runs, {kills} kills, {alike} ended alike", flush=True)
    line = f"{kills} kills in {runs} runs, {alike} of {runs} ended alike, {time.monotonic() - began:.0f} s"
    print(line)
    assert kills >= runs * 0.9, f"{line}: too few runs lived long enough"
    assert alike == runs, line


@pytest.mark.slow
def test_one_process(tmp_path: Path) -> None:
    survive(tmp_path, KILLS, "trainer=cpu")


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    survive(tmp_path, max(2, KILLS // 5), "trainer=ddp_cpu")


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_checkpoints_in_the_background(trainer: str, tmp_path: Path) -> None:
    """Of 3 MB, each 3 steps: most kills come while one is written."""
    runs = KILLS if trainer == "cpu" else max(2, KILLS // 5)
    options = ("background=true", "save_last_every=3steps", "filename='{step}'")
    arguments = [f"callbacks.checkpoint.{option}" for option in options]
    survive(
        tmp_path,
        runs,
        f"trainer={trainer}",
        "model.network.hidden=[600,600]",
        "+callbacks.checkpoint.save_top_k=2",
        *arguments,
    )


@pytest.mark.slow
def test_two_processes_with_a_sharded_model(tmp_path: Path) -> None:
    survive(tmp_path, max(2, KILLS // 5), "trainer=fsdp_cpu")
