"""The story of a benchmark: measure case after case, show each, keep all."""

import os
import platform
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path

import lightning as L
import torch

from metronome.app.benchmark.apart import order_case, startup_case
from metronome.app.benchmark.asked import Asked
from metronome.app.benchmark.epochs import epochs_case
from metronome.app.benchmark.gpu import steps as gpu
from metronome.app.benchmark.measuring import Case, Measured, measure
from metronome.app.benchmark.page import write_page
from metronome.app.benchmark.processes import processes_case
from metronome.app.benchmark.samples import samples_case
from metronome.app.benchmark.steps import step_case
from metronome.app.benchmark.table import as_text
from metronome.app.benchmark.tasks import TASKS
from metronome.app.benchmark.ways import be_quiet
from metronome.app.run.result import write_json
from metronome.version import __version__


def benchmark(asked: Asked, show: Callable[[str], None]) -> list[Measured]:
    """Measure what is asked for, show each table when it is there, and write what is to be written."""
    be_quiet()
    torch.set_num_threads(1)
    around, found = circumstances(asked), []
    show("\n".join(f"{name:10} {value}" for name, value in around.items()))
    if "gpu" in asked.cases and not torch.cuda.is_available():
        show("\ngpu: left out, since PyTorch finds no CUDA device here")
    for case in _cases(asked):
        found.append(measure(case, asked.rounds))
        show(f"\n{as_text(found[-1])}")
    if asked.json is not None:
        write_json(asked.json, around | {"cases": {measured.case.name: measured.as_dict() for measured in found}})
    if asked.page:
        write_page(asked, around, found)
    return found


def _cases(asked: Asked) -> Iterator[Case]:
    """Each made when it is its turn: its data need not be there while others are measured."""
    makers: dict[str, list[Callable[[], Case]]] = {name: [partial(step_case, name, asked)] for name in TASKS}
    makers |= {name: [partial(epochs_case, name, asked)] for name in ("validation", "epoch")}
    makers |= {"samples": [partial(samples_case, asked)], "order": [partial(order_case, asked)]}
    makers |= {"startup": [partial(startup_case, asked)]}
    makers |= {
        "processes": [partial(processes_case, *each, asked) for each in product(("linear", "mlp"), asked.processes)]
    }
    makers |= {"gpu": [partial(gpu.gpu_case, task, asked) for task in gpu.TASKS] if torch.cuda.is_available() else []}
    for name in asked.in_order:
        for make in makers[name]:
            yield make()


def circumstances(asked: Asked) -> dict[str, str]:
    """On what, with what and when this is measured."""
    load = f"{os.getloadavg()[0]:.1f} processes wanted to run in the minute before" if hasattr(os, "getloadavg") else ""
    clock = {"wall": "as it passes", "cpu": "what the processes computed, whoever else computed"}[asked.clock]
    versions = {"Python": platform.python_version(), "torch": torch.__version__, "lightning": L.__version__}
    return {
        "hardware": f"{_processor()}, {os.cpu_count()} cores, one thread used; {load}",
        **({"GPU": f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"} if torch.cuda.is_available() else {}),
        "versions": ", ".join(f"{name} {version}" for name, version in (versions | {"metronome": __version__}).items()),
        "system": " ".join([platform.system(), *platform.libc_ver()]).strip(),
        "date": date.today().isoformat(),
        "time": f"{asked.clock} clock: {clock}; medians of {asked.rounds} rounds",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
