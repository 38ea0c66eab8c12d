"""Hydra's sweeper, which goes through every combination of values, with some things more. Imports nothing heavy.

It is here, and not in metronome.app, because Hydra takes plugins from this namespace package only.
"""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus

from metronome.app.errors.exits import JobFailed, sigterm_stops
from metronome.app.sweeps.cluster import keep_quiet, lost_jobs
from metronome.app.sweeps.table import Table
from metronome.runs.order import write_order


class Sweeper(BasicSweeper):
    """Goes through `jobs`, each a list of overrides that belong together, and for each of them through every
    combination of `params` and of the values on the command line. These win: over `params` of the same key, with a
    plus sign or without, and over jobs that set it, which are left out whole. A job that fails has said so itself.

        jobs:
          - [optimizer.momentum=0]
          - [optimizer.momentum=0.9, optimizer.nesterov=true]
        params:
          seed: 0,1,2

    With a number as `shuffle` they are made in an order drawn from it, the same at each start, so that what changes
    while a sweep runs (a machine that grows warm, a neighbour's work) falls on no value more than on another. The order
    is kept in the folder of the sweep.
    """

    def __init__(self, jobs: Sequence[Sequence[str]] | None = None, shuffle: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.jobs, self.shuffle = [list(map(str, job)) for job in jobs or [[]]], shuffle

    def split_arguments(self, overrides: Any, max_batch_size: int | None) -> list[list[list[str]]]:  # pyright: ignore
        last = {override.get_key_element().lstrip("+"): override for override in overrides}
        kept = [job for job in self.jobs if not {word.lstrip("+").split("=")[0] for word in job} & set(last)] or [[]]
        (combinations,) = BasicSweeper.split_arguments(list(last.values()), None)
        jobs = [[*job, *own] for job in kept for own in combinations]
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(jobs)
            write_order(Path(self.config.hydra.sweep.dir), self.shuffle, jobs)  # pyright: ignore
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))

    def sweep(self, arguments: list[str]) -> Any:
        assert self.launcher is not None
        config: Any = self.config
        # Asked for the value of a job that failed, Hydra prints words of its own and stops the sweep. In place of the
        # launcher, not inside of it: some pickle themselves.
        in_study = "study" in config.hydra.runtime.choices
        self.launcher = launcher = _Told(self, self.launcher)  # pyright: ignore
        try:
            with sigterm_stops():  # between two jobs too
                done = super().sweep(arguments)
        except (KeyboardInterrupt, SystemExit):
            if launcher.table is not None and not in_study:
                launcher.table.interrupted()
            raise
        if launcher.table is not None:
            why = {_number(job): job._return_value for job in launcher.failed}
            launcher.table.end(why, speaks_of_best=not in_study)
        if launcher.failed:
            raise launcher.failed[0]._return_value
        if launcher.lost:
            raise JobFailed(f"no result of {', '.join(launcher.lost)}")
        return done


class _Told:
    """A launcher whose jobs are told, and those that fail kept back."""

    def __init__(self, sweeper: Sweeper, launcher: Any) -> None:
        self.sweeper, self.launcher = sweeper, launcher
        self.table: Table | None = None
        self.leave_results = sweeper.config.hydra.job.config_name != "plan"  # pyright: ignore
        self.failed: list[JobReturn] = []
        self.lost: list[str] = []

    def launch(self, batch: Any, initial_job_idx: int) -> list[JobReturn]:
        # By now the sweeper knows its jobs, and has kept what it is in its folder.
        if self.table is None and self.leave_results:
            jobs = [job for of_batch in self.sweeper.overrides or [] for job in of_batch]
            self.table = Table(Path(self.sweeper.config.hydra.sweep.dir), jobs, self.launcher)  # pyright: ignore
        keep_quiet(self.launcher)
        with self.table.at_work() if self.table is not None else nullcontext(), lost_jobs(self.launcher) as lost:
            done = self.launcher.launch(batch, initial_job_idx=initial_job_idx)
        self.failed += [job for job in done if job.status is JobStatus.FAILED]
        self.lost += lost
        return [job for job in done if job.status is JobStatus.COMPLETED]


def _number(job: JobReturn) -> int:
    assert job.hydra_cfg is not None
    return job.hydra_cfg.hydra.job.num + 1
