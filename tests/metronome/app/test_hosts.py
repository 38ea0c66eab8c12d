"""Runs over several hosts: each in namespaces of its own, started by torchrun as on real ones.

Slow; `.ci/run` makes the first where it is allowed. With METRONOME_LOSSES=20 a release is made.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import PROJECT
from commands import wait_for as wait_for_so_long
from hosts import Command, Network, network, torchrun
from seen import seen_in

from metronome.runs.folders import RunFolder

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
            net.add(number, place(net, number, apart))
    return [
        net.hosts[number].start(*torchrun(str(count), number - 1, *JOB, *arguments)) for number in range(1, count + 1)
    ]


def place(net: Network, number: int, apart: bool) -> Path:
    return net.folder / (f"host{number}" if apart else "all")


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


def wait_for(condition: Callable[[], object]) -> None:
    """Processes that start from nothing take their time where others work beside them."""
    wait_for_so_long(condition, 600)


def digest(folder: Path) -> str:
    return json.loads((run_of(folder) / "result.json").read_text())["weights_sha256"]


def has_saved(folder: Path) -> bool:
    return bool(list(folder.glob("runs/*/*/checkpoints/last.ckpt")))


def on_one_host(net: Network, count: int, name: str) -> Path:
    """The same run in so many processes on a single host."""
    host, folder = net.hosts.get(9) or net.add(9), net.folder / name
    command = [*torchrun("1", 0, *JOB, processes=count)]
    command[command.index("--master-addr") + 1] = "127.0.0.1"
    end_well([host.start(*command, folder=folder)])
    return folder


def is_done(folder: Path) -> bool:
    (run,) = folder.glob("runs/*/*")
    return RunFolder(run).status == "finished"


def test_two_hosts_are_two_processes_and_one_may_be_lost(net: Network) -> None:
    """The same weights as on one host; one host is lost: the other ends with one line, and the same commands go on to
    the weights, metrics and curves of a run that was never interrupted."""
    whole = on_one_host(net, 2, "whole")
    first = start(net, 2, "resume=auto")
    wait_for(lambda: has_saved(net.folder / "all"))
    net.hosts[2].kill()
    lost_at = time.monotonic()
    assert first[0].wait() != 0
    print(f"the other host ended {time.monotonic() - lost_at:.1f} s after the loss")
    assert first[0].said.count(f"error: {LOST}") == 1
    assert "Traceback" not in first[0].said.partition(LOST)[0]

    net.add(2, net.folder / "all")
    end_well(second := start(net, 2, "resume=auto"))
    assert "goes on" in second[0].said
    assert left_by(net.folder / "all") == left_by(whole)


def test_three_hosts_are_three_processes(net: Network) -> None:
    whole = on_one_host(net, 3, "whole")
    end_well(start(net, 3))
    assert left_by(net.folder / "all") == left_by(whole)


@pytest.mark.parametrize("lost", [1, 2])
def test_hosts_that_share_no_disk(net: Network, lost: int) -> None:
    """Each keeps the checkpoints; a host that is replaced by an empty one is sent what the run has, by the others."""
    whole = on_one_host(net, 2, "whole")
    first = start(net, 2, "resume=auto", apart=True)
    wait_for(lambda: all(has_saved(place(net, number, True)) for number in (1, 2)))
    net.hosts[lost].kill()
    assert first[2 - lost].wait() != 0
    assert LOST in first[2 - lost].said

    folder = place(net, lost, True)
    folder.rename(folder.with_name("gone"))
    net.add(lost, folder)
    end_well(second := start(net, 2, "resume=auto", apart=True))
    assert f"host {2 - lost} sends the checkpoint of step" in second[0].said
    left, expected = left_by(place(net, 1, True)), left_by(whole)
    begun_anew = left.pop("curves"), expected.pop("curves")
    assert left == expected
    assert (begun_anew[0] == begun_anew[1]) == (lost == 2)
    assert ("curves" in second[0].said) == ("storage=" in second[0].said) == (lost == 1)
    here, there = (run_of(place(net, number, True)) for number in (1, 2))
    assert here.name == there.name
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (state_of(run / "checkpoints" / name) for run in (here, there))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert digest(place(net, 2, True)) == expected["weights_sha256"]
    assert not [file for run in (here, there) for file in run.rglob("*") if file.name.startswith((".host_", ".start"))]


def state_of(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)["state_dict"]


def test_hosts_leave_and_come_back(net: Network) -> None:
    """torchrun starts those that are left again, on fewer devices, and all again when a host comes back: weights to
    rounding those of a run on one device, and each sample seen once an epoch."""
    alone, folder, seen = net.folder / "alone", net.folder / "all", net.folder / "seen"
    end_well([net.add(9).start(sys.executable, *JOB, folder=Path(alone))])
    job = (*JOB, "+callbacks.seen._target_=seen.Seen", f"+callbacks.seen.folder={seen}", "+callbacks.seen.pause=0.1")
    quick = ["--max-restarts", "20", "--rdzv-conf", "last_call_timeout=6,keep_alive_interval=1,join_timeout=200"]
    support = str(PROJECT / "tests" / "support")

    def come(number: int) -> Command:
        host = net.add(number, folder, by_name=True)
        line = torchrun("1:3", 0, *quick, *job, elastic="10.77.0.1")
        # The store that it keeps for all starts has no place for a host that joins later (PyTorch 2.13).
        paths = os.pathsep.join([str(PROJECT / "src"), support])
        return host.start(*line, PYTHONPATH=paths, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")

    commands = [come(number) for number in (1, 2, 3)]
    wait_for(lambda: "= 3 devices" in commands[0].said and has_saved(folder))
    net.hosts[3].kill()
    lost_at = time.monotonic()
    wait_for(lambda: "goes on  " in commands[0].said.partition("= 2 devices")[2])
    print(f"the others went on {time.monotonic() - lost_at:.1f} s after the loss")
    back = come(3)
    wait_for(lambda: "goes on  " in commands[0].said.partition("= 2 devices")[2].partition("= 3 devices")[2])
    end_well([*commands[:2], back])

    one, other = (state_of(run_of(place) / "checkpoints/last.ckpt") for place in (alone, folder))
    assert all(torch.allclose(one[key], other[key], rtol=0, atol=1e-12) for key in one)
    epochs = seen_in(seen)
    assert len(epochs) == 5
    assert all(len(samples) == len(set(samples)) == 1_257 for samples in epochs.values())


def test_a_host_is_lost_at_a_random_moment(net: Network) -> None:
    whole, chance, alike = on_one_host(net, 2, "whole"), random.Random(0), 0
    expected = left_by(whole)
    fit = json.loads((run_of(whole) / "result.json").read_text())["seconds"]["fit"]
    for turn in range(LOSSES):
        first = start(net, 2, "resume=auto")
        wait_for(lambda: list((net.folder / "all").glob("runs/*/*/config.yaml")))
        time.sleep(chance.uniform(0, fit))
        net.hosts[lost := chance.choice([1, 2])].kill()
        # Lost at its very end the run may be done; torchrun waits for its like on the lost host then.
        left = first[2 - lost].process
        wait_for(lambda left=left: left.poll() is not None or is_done(net.folder / "all"))
        for host in net.hosts.values():
            host.kill()
        net.hosts.clear()
        end_well(start(net, 2, "resume=auto"))
        alike += left_by(net.folder / "all") == expected
        print(f"{turn + 1} hosts lost, {alike} runs ended alike", flush=True)
        shutil.rmtree(net.folder / "all")
        (net.folder / "all").mkdir()
    assert alike == LOSSES
