"""Jobs of a sweep that a cluster makes: what they ask of it, and those that are lost there. Imports nothing heavy."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metronome.units import InputError


def tasks_per_node(config: Any) -> int:
    """A process for each device of a node.

    Raises:
        InputError: where the trainer takes what devices there are: SLURM must be told beforehand.
    """
    devices = config.get("trainer", {}).get("devices")
    if isinstance(devices, int) and not isinstance(devices, bool) and devices > 0:
        return devices
    raise InputError(
        f"trainer.devices={devices}: hydra/launcher=slurm asks for as many devices of a node; say how many, as in "
        "trainer.devices=8"
    )


def gpus_per_node(config: Any) -> int | None:
    """Those that the trainer takes; None where it trains on the CPU."""
    accelerator = config.get("trainer", {}).get("accelerator")
    return tasks_per_node(config) if accelerator in ("gpu", "cuda") else None


def jobs_in_queue(sweep: Path) -> list[str]:
    """The numbers under which SLURM has the jobs of a sweep, an array of them once, as far as submitit's folder in that
    of the sweep tells."""
    scripts = (sweep / ".submitit").glob("*/*_submission.sh")
    return sorted({script.name.partition("_")[0] for script in scripts})


def keep_quiet(launcher: Any) -> None:
    """Ray would print here what each of its jobs does, whose lines are told already, and a welcome."""
    init = getattr(getattr(launcher, "ray_cfg", None), "init", None)
    if init is not None:
        for key, value in (("log_to_driver", False), ("logging_level", "error")):
            init.setdefault(key, value)


@contextmanager
def lost_jobs(launcher: Any) -> Iterator[list[str]]:
    """While a launcher of submitit's works, a job that ends and leaves no result (cancelled, killed, out of time) is in
    the list, by its number on the cluster, and the others are waited for: submitit would end with an error of the job's
    whole log, and the rest would go on unseen.

    Raises:
        InputError: for a launcher of SLURM's where SLURM is not.
    """
    if type(launcher).__name__ == "SlurmLauncher" and shutil.which("srun") is None:
        raise InputError(
            "there is no SLURM here (no command srun); start from a login node of the cluster, or make the jobs on "
            "this machine: hydra/launcher=submitit_local"
        )
    lost: list[str] = []
    if not type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher"):
        yield lost
        return
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job  # pyright: ignore[reportMissingImports]
    from submitit.core.utils import UncompletedJobError  # pyright: ignore[reportMissingImports]

    results = Job.results

    def results_or_lost(self: Any) -> list[Any]:
        try:
            return results(self)
        except UncompletedJobError:
            if self.job_id not in lost:
                lost.append(self.job_id)
            return [JobReturn(status=JobStatus.UNKNOWN)]

    Job.results = results_or_lost  # pyright: ignore
    try:
        yield lost
    finally:
        Job.results = results
