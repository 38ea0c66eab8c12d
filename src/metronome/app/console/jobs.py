"""A job of a sweep that fails: told in one line, and the sweep goes on."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf import DictConfig

from metronome.app.config.asked import in_search, in_sweep
from metronome.app.console import output
from metronome.app.errors.exits import JobFailed
from metronome.app.sweeps.place import begin_job, end_job


@contextmanager
def job_of_a_sweep(config: DictConfig) -> Iterator[None]:
    """Around a run that may be one: an error in it becomes JobFailed, and nothing at all in a search, which takes a
    job without a value for a failed one."""
    began = time.monotonic()
    if in_sweep():
        begin_job(config)
    try:
        yield
        if in_sweep():
            end_job(time.monotonic() - began)
    except Exception as error:
        if not in_sweep():
            raise
        if not isinstance(error, JobFailed):
            output.show_failed_job(error)
        if not in_search():
            raise error if isinstance(error, JobFailed) else JobFailed(str(error)) from error
