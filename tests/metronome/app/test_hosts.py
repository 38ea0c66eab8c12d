"""Runs over several hosts: each in namespaces of its own, started by torchrun as on real ones.

Slow; `.ci/run` makes the first where it is allowed. `METRONOME_LOSSES=20 pytest -m slow -s` is what a release is held to.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import PROJECT, wait_for
from hosts import Command, Network, network, torchrun
from seen import seen_in

pytestmark = pytest.mark.slow

LOSSES = int(os.environ.get("METRONOME_LOSSES", "3"))
TRAIN = str(PROJECT / "scripts" / "train.py")
# 300 steps of 5 epochs, in float64; a checkpoint every 7 steps besides those of the validations.
JOB = (
    TRAIN, "+experiment=digits", "model=mlp", "data.batch_size=21", "trainer=cpu", "trainer.precision=64-true",
    "trainer.max_epochs=5", "trainer.log_every_n_steps=1", "callbacks.checkpoint.save_last_every=7steps",
)  # fmt: skip
STEPS = 300
LOST = "a process of this run is gone"


@pytest.fixture(name="net")
def fixture_net(tmp_path: Path) -> Iterator[Network]:
    with network(tmp_path) as made:
        yield made


def start(net: Network, count: int, *arguments: str, apart: bool = False) -> list[Command]:
    """The same command on so many hosts, all in one folder, or each in one of its own."""
    for number in range(1, count + 1):
        if number not in net.hosts:
            net.add(number, net.folder / (f"host{number}" if apart else "all"))
    return [
        net.hosts[number].start(*torchrun(str(count), number - 1, *JOB, *arguments)) for number in range(1, count + 1)
    ]


def end_well(commands: list[Command]) -> None:
    codes = [command.wait() for command in commands]
    assert not any(codes), "\n".join(command.said[-3000:] for command in commands)


def run_of(folder: Path) -> Path:
    (config,) = folder.glob("runs/*/*/config.yaml")
    return config.parent


def left_by(folder: Path) -> dict[str, Any]:
    """What a run has come to: its result and its curves, without what is of the clock."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_of(folder)
    content = json.loads((run / "result.json").read_text())
    result = {name: content[name] for name in ("status", "progress", "metrics", "weights_sha256")}
    result["best"] = {name: content["best"][name] for name in ("monitor", "value", "step")}
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith(("watch/ms_", "watch/samples_per"))]
    result["curves"] = {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}
    return result


def digest(folder: Path) -> str:
    return json.loads((run_of(folder) / "result.json").read_text())["weights_sha256"]


def has_saved(folder: Path, steps: int = 1) -> bool:
    """Whether a run has come so far: what it logs is in train.log, and its first checkpoint is there."""
    return len(list(folder.glob("runs/*/*/checkpoints/last.ckpt"))) >= 1


def on_one_host(net: Network, count: int, name: str) -> Path:
    """The same run in so many processes on a single host."""
    host, folder = net.hosts.get(9) or net.add(9), net.folder / name
    command = [*torchrun("1", 0, *JOB, processes=count)]
    command[command.index("--master-addr") + 1] = "127.0.0.1"
    end_well([host.start(*command, folder=folder)])
    return folder


def test_two_hosts_are_two_processes_and_one_may_be_lost(net: Network) -> None:
    """The same weights as on one host; one host is lost: the other ends with one line, and the same commands go on to
    the weights, metrics and curves of a run that was never interrupted."""
    whole = on_one_host(net, 2, "whole")
    first = start(net, 2, "resume=auto")
    wait_for(lambda: has_saved(net.folder / "all"))
    net.hosts[2].kill()
    lost_at = time.monotonic()
    assert first[0].wait(60) != 0
    print(f"the other host ended {time.monotonic() - lost_at:.1f} s after the loss")
    assert first[0].said.count(f"error: {LOST}") == 1 and "Traceback" not in first[0].said.partition(LOST)[0]

    net.add(2, net.folder / "all")
    end_well(second := start(net, 2, "resume=auto"))
    assert "goes on" in second[0].said
    assert left_by(net.folder / "all") == left_by(whole)
