"""A stand-in for SLURM on this machine: its commands, with what SLURM's set and do as far as a training meets it.

    slurm = Slurm(tmp_path / "slurm")
    subprocess.run(["sbatch", "job.sh"], env=slurm.environment)
    slurm.wait()

`sbatch` takes `#SBATCH` lines, arrays too, and the environment; each job runs in a process of its own, as soon as there
is room (`%2` of an array). `srun` starts its tasks as processes of this machine, each in a process group of its own,
with the variables that SLURM sets; nodes are called 127.0.0.1, 127.0.0.2 and so on, which every machine finds. What a
signal reaches is what it reaches under SLURM: with `scancel --signal` the tasks of the steps and what they have started
in their process groups; a job that is cancelled or requeued is told SIGTERM, and ended some seconds later.

Not here: queues, partitions, limits of memory and time (a job's end is announced where a test does so).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from slurm.jobs import ENDED, Job, jobs_in, store

COMMANDS = ("sbatch", "srun", "scontrol", "scancel", "sacct", "squeue")


class Slurm:
    """The commands, to be put before others in `PATH`, and what tests ask of the jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        here = Path(__file__).parents[1]
        for name in COMMANDS:
            command = folder / "bin" / name
            command.write_text(
                f'#!/bin/sh\nSLURM_STAND_IN={folder} SLURM_STAND_IN_PATH="$PYTHONPATH" PYTHONPATH={here} '
                f'exec {sys.executable} -S -m slurm.command {name} "$@"\n'
            )
            command.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """Of a login node: nothing is left of a job in which these tests may run."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SUBMITIT_"))}
        return plain | {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    @property
    def jobs(self) -> list[Job]:
        return jobs_in(self.folder)

    def wait(self, seconds: float = 300) -> list[Job]:
        """Until all jobs have ended."""
        end = time.monotonic() + seconds
        while any(job.state not in ENDED for job in self.jobs):
            assert time.monotonic() < end, f"they should have ended: {self.jobs}"
            time.sleep(0.05)
        return self.jobs

    def preempt(self, job: Job) -> None:
        """As a partition does whose jobs give way by being requeued: nobody in the job asks for it."""
        self._run("scontrol", "requeue", job.name)

    def _run(self, *command: str) -> None:
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def close(self) -> None:
        """Leave no process behind."""
        for job in self.jobs:
            if job.state not in ENDED:
                store(self.folder, job.id, requeue=False, cancelled=True)
            for group in [
                *job.tasks,
                *([job.batch] if job.batch else []),
                *([job.controller] if job.controller else []),
            ]:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
