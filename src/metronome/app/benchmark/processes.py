"""What a step costs on several processes: DistributedDataParallel in a plain loop, Lightning, and ours."""

import gc
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from metronome.app.benchmark.asked import CASES, Asked
from metronome.app.benchmark.measuring import Case, Stopwatch, Way, clock_of
from metronome.app.benchmark.tasks import TASKS, Task
from metronome.app.benchmark.ways import Training, be_quiet, lightning, metronome

_PARTS, _WARMUP, _STEPS_COUNTED = 4, 20, 10
_DDP, _DDP_CUT = "plain DDP", f"plain DDP, in {_PARTS}"
# What makes processes meet; `async_op=True` is not waited for.
_CALLS = ("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "barrier", "broadcast",
          "broadcast_object_list", "gather", "gather_object", "monitored_barrier", "reduce", "reduce_scatter",
          "reduce_scatter_tensor", "scatter", "send", "recv")  # fmt: skip


def processes_case(task: str, processes: int, asked: Asked) -> Case:
    """Microseconds a step, and collectives a step. All rounds are made when the first number is asked for."""
    found: dict[str, dict[str, Any]] = {}

    def value(way: str, rounds: Iterator[int]) -> float:
        if not found:
            found.update(_measure_apart(task, processes, asked))
        return found[way]["values"][next(rounds)]

    def remark(way: str) -> str:
        return found[way]["collectives"]

    ways = [
        Way(
            way,
            partial(value, way, iter(range(asked.rounds))),
            (_DDP_CUT if way.endswith(f"in {_PARTS}") else _DDP, None if "in" in way.split() else "Lightning"),
            partial(remark, way),
        )
        for way in _trainings(processes)
    ]
    return Case(
        f"{task} on {processes} processes",
        f"gloo, one thread each, {CASES[task].split(':')[0]}",
        "us a step",
        ways,
        ("DDP", "Lightning"),
        shows_added=True,
        remark="collectives (waited for)",
        notes=lambda _: [
            "collectives: all that are begun in a step; in brackets the calls that return only when theirs is done"
        ],
    )


def _trainings(processes: int) -> dict[str, Training]:
    flags: dict[str, Any] = {"devices": processes, "strategy": "ddp"}
    return {
        _DDP: ddp,
        "Lightning": partial(lightning, **flags),
        "Metronome": partial(metronome, **flags),
        _DDP_CUT: partial(ddp, parts=_PARTS),
        f"Metronome, in {_PARTS}": partial(metronome, parts=_PARTS, **flags),
    }


def ddp(task: Task, stopwatch: Stopwatch, *, shuffle: bool = True, parts: int = 1) -> nn.Module:
    """The bare loop, in one of several processes; gradients meet in the last micro-batch of a step.

    Args:
        task, stopwatch, shuffle: as of the bare loop.
        parts: micro-batches into which this process's part of a batch is cut.
    """
    network, (x, y) = task.start(), task.data()
    module, optimizer = DistributedDataParallel(network), task.optimizer(network.parameters())
    devices, rank = distributed.get_world_size(), distributed.get_rank()
    order_of = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(x), generator=order_of) if shuffle else torch.arange(len(x))
        for batch in order.split(task.batch_size):
            index = batch.tensor_split(devices)[rank]
            optimizer.zero_grad()
            pieces = list(zip(x[index].tensor_split(parts), y[index].tensor_split(parts), strict=True))
            for i, (inputs, targets) in enumerate(pieces):
                weight = len(inputs) * devices / len(batch)
                with nullcontext() if i == parts - 1 else module.no_sync():
                    loss = task.loss(module, inputs, targets)
                    (loss if weight == 1 else loss * weight).backward()
            optimizer.step()
            if stopwatch.step_done():
                return network


# ---- the processes --------------------------------------------------------------------------------------------


def _measure_apart(task: str, processes: int, asked: Asked) -> dict[str, dict[str, Any]]:
    """Start the processes, and read what they have found. Raises what one of them has raised."""
    with TemporaryDirectory() as folder:
        port = find_free_network_port()
        arguments = (task, processes, asked.steps, asked.rounds, asked.clock, port, Path(folder))
        start_processes(_in_a_process, arguments, processes, start_method="spawn")  # pyright: ignore
        each = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
    found = each[0]
    for way in found:  # they wait for each other, so what they compute is shared out anyhow
        found[way]["values"] = [
            sum(values) / len(each) for values in zip(*(one[way]["values"] for one in each), strict=True)
        ]
    return found


def _in_a_process(
    rank: int, task_name: str, processes: int, steps: int, rounds: int, clock: str, port: int, folder: Path
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "RANK": str(rank),
        "LOCAL_RANK": str(rank), "NODE_RANK": "0",
    }  # fmt: skip
    be_quiet()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    task, trainings = TASKS[task_name], _trainings(processes)
    found: dict[str, dict[str, Any]] = {
        way: {"values": [], "collectives": _collectives(task, training)} for way, training in trainings.items()
    }
    for _ in range(rounds):
        for way, training in trainings.items():
            gc.collect()  # what the way before has left is not this one's to clear away
            distributed.barrier()
            stopwatch = Stopwatch(clock_of(clock), task.steps(steps), _WARMUP)
            training(task, stopwatch)
            found[way]["values"].append(stopwatch.micros)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def _collectives(task: Task, training: Training) -> str:
    """Collectives that a step begins, and how many of them Python waits for there.

    Steps of one training are subtracted from those of a longer one, so that what begins and ends it is not counted.
    """
    short, long = (_count(task, training, steps) for steps in (_STEPS_COUNTED, 2 * _STEPS_COUNTED))
    begun, waited = ((b - a) / _STEPS_COUNTED for a, b in zip(short, long, strict=True))
    return f"{begun:.3g} ({waited:.3g})"


def _count(task: Task, training: Training, steps: int) -> tuple[int, int]:
    stopwatch = Stopwatch(clock_of("wall"), steps - 1, warmup=1)
    with _waits_counted() as waits, _Collectives() as collectives:
        training(task, stopwatch)
    return collectives.begun, sum(waits.values())


class _Collectives(TorchDispatchMode):
    """Counts all that are begun, those of DistributedDataParallel's C++ too."""

    begun = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.begun += func.namespace == "c10d"
        return func(*args, **(kwargs or {}))


@contextmanager
def _waits_counted() -> Iterator[Counter]:
    """While it lasts, calls of torch.distributed that return when it is done are counted."""
    waits: Counter = Counter()
    before = {name: getattr(distributed, name) for name in _CALLS}
    is_inside = False

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def called(*arguments: Any, **options: Any) -> Any:
            nonlocal is_inside
            if is_inside:  # some are made of others
                return call(*arguments, **options)
            is_inside = True
            try:
                waits[name] += not options.get("async_op", False)
                return call(*arguments, **options)
            finally:
                is_inside = False

        return called

    for name, call in before.items():
        setattr(distributed, name, counted(name, call))
    try:
        yield waits
    finally:
        for name, call in before.items():
            setattr(distributed, name, call)
