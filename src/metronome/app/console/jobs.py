"""A job of a sweep that fails: told in one line, and the sweep goes on."""

from collections.abc import Iterator
from contextlib import contextmanager

from metronome.app.config.asked import in_search, in_sweep
from metronome.app.console import output
from metronome.app.errors.exits import JobFailed


@contextmanager
def job_of_a_sweep() -> Iterator[None]:
    """Around a run that may be one: an error in it becomes JobFailed, and nothing at all in a search, which takes a
    job without a value for a failed one."""
    try:
        yield
    except Exception as error:
        if not in_sweep():
            raise
        if not isinstance(error, JobFailed):
            output.show_failed_job(error)
        if not in_search():
            raise error if isinstance(error, JobFailed) else JobFailed(str(error)) from error
