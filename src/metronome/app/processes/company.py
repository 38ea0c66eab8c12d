"""The end of a process that trains beside others."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed


@contextmanager
def in_company() -> Iterator[None]:
    """Around a training in processes that another program has started: they leave each other in order, when they end.

    Left to the interpreter, the threads of the group may still run when they are taken down, and now and then a run
    that did all it should ends with an abort. Not before they end: the next job of a sweep in these processes goes on
    with the group.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)
    yield
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()


def _leave() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
