"""What is measured in processes of its own: how long a command takes to begin, and the first batch of many samples."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch

from metronome.app.benchmark.asked import CASES, Asked
from metronome.app.benchmark.measuring import Case, Way
from metronome.app.run.memory import peak_memory_bytes, reset_peak_memory
from metronome.training import BatchSampler
from metronome.units import BatchSchedule

# ---- start-up -------------------------------------------------------------------------------------------------

# Both end as soon as they are there: what a process does at its end is not measured.
_IMPORT = "import os, torch, lightning; os._exit(0)"
_FIRST_STEP = """
import os, runpy, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.exit("the command made no step")
"""


def startup_case(asked: Asked) -> Case:
    """Milliseconds until the first step of a command is made, beside those of an import."""
    command = [str(asked.train), "+experiment=linear", "trainer=cpu"]
    ways = {
        "import torch, lightning": partial(_milliseconds_of, _IMPORT, [], asked.clock),
        f"train.py {' '.join(command[1:])}": partial(_milliseconds_of, _FIRST_STEP, command, asked.clock),
    }
    beside = next(iter(ways))
    return Case(
        "startup",
        CASES["startup"],
        "ms",
        [Way(name, way, (beside,)) for name, way in ways.items()],
        ("import",),
        shows_added=True,
    )


def _milliseconds_of(program: str, arguments: list[str], clock: str) -> float:
    """Run a program of Python's from nothing, in an empty folder. Raises RuntimeError if it fails."""
    with TemporaryDirectory() as folder:
        before, began = _computed_by_children(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=folder, env=_environment(), capture_output=True, text=True
        )
        wall, computed = time.perf_counter() - began, _computed_by_children() - before
    if done.returncode:
        raise RuntimeError(done.stderr)
    return (wall if clock == "wall" else computed) * 1e3


def _computed_by_children() -> float:
    """Seconds, of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


# ---- the order of very many samples ---------------------------------------------------------------------------

_SIZES = (10**5, 10**7, 10**9)
_MOST_BYTES, _MOST_SECONDS, _MOST_ROUNDS = 4 * 10**9, 60, 3
_OURS, _TORCH = "Metronome", "torch.randperm"


class _Orders:
    """What children have found, each of which goes through all sizes in one way."""

    def __init__(self, clock: str) -> None:
        self.clock = clock
        self.children: dict[str, list[dict[int, dict[str, Any]]]] = {_TORCH: [], _OURS: []}

    def milliseconds(self, way: str, size: int) -> float | None:
        """Of the newest child, which the first size starts."""
        children = self.children[way]
        if size == _SIZES[0]:
            is_over = len(children) >= _MOST_ROUNDS
            children.append({} if is_over else {found["size"]: found for found in _found_by_child(way, self.clock)})
        seconds = children[-1].get(size, {}).get("seconds")
        return None if seconds is None else seconds * 1e3

    def memory(self, way: str, size: int) -> str:
        found = self.children[way][0].get(size)
        if found is None:
            return f"more than {_MOST_SECONDS} s"
        if found["bytes"] is None:
            return f"more than {_MOST_BYTES / 1e9:.0f} GB"
        return f"{found['bytes'] / 1e6:,.1f} MB"


def order_case(asked: Asked) -> Case:
    """Milliseconds until the first batch of an epoch is known, and the memory that it takes."""
    orders, ways = _Orders(asked.clock), []
    for size in _SIZES:
        beside = f"{_TORCH}, {size:,} samples"
        for way in (_TORCH, _OURS):
            name = f"{way}, {size:,} samples"
            remark = partial(orders.memory, way, size)
            ways.append(Way(name, partial(orders.milliseconds, way, size), (beside,), remark))
    ways.sort(key=lambda way: way.name.split(",")[0], reverse=True)
    return Case("order", CASES["order"], "ms", ways, ("torch",), remark="memory")


def _found_by_child(way: str, clock: str) -> list[dict[str, Any]]:
    """What a child has printed when it ends, or in the end is ended."""
    command = [sys.executable, "-m", __name__, way, clock, *map(str, _SIZES)]
    try:
        out = subprocess.run(
            command, env=_environment(), stdout=subprocess.PIPE, text=True, timeout=_MOST_SECONDS, check=True
        ).stdout
    except subprocess.TimeoutExpired as error:
        out = (error.stdout or b"").decode()
    return [json.loads(line) for line in out.splitlines()]


def _first_batches(way: str, clock: Callable[[], float], sizes: list[int]) -> None:
    """In the child: print for each size how long the first batch takes, and the memory."""

    def ours(size: int) -> Any:
        return next(iter(BatchSampler(size, BatchSchedule.of(64, size, None), seed=0)))

    def torchs(size: int) -> Any:
        return torch.randperm(size)[:64]

    first_batch = ours if way == _OURS else torchs
    first_batch(1_000)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    for size in sizes:
        reset_peak_memory()
        before, began = peak_memory_bytes(on_gpu=False), clock()
        try:
            first_batch(size)
            found = {"seconds": clock() - began, "bytes": peak_memory_bytes(on_gpu=False) - before}
        except (MemoryError, RuntimeError):  # torch's
            found = {"seconds": None, "bytes": None}
        print(json.dumps({"size": size} | found), flush=True)


if __name__ == "__main__":
    _way, _clock, *_sizes = sys.argv[1:]
    _first_batches(_way, time.perf_counter if _clock == "wall" else time.process_time, list(map(int, _sizes)))
