"""The processes in which steps are measured: forks of one that has imported everything, and has done nothing else.

Each case has a process of its own, so that its memory is its own; a fork takes no seconds for imports, and one of a
process that has not computed yet takes no threads along that would be waited for in vain. Imports nothing heavy.
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf

_WORK = "metronome.app.measure.process"


def context() -> Any:
    """Where such processes come from. Windows cannot fork: there each imports by itself."""
    return multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")


def begin_if_asked(config: Any) -> None:
    """The same for a configuration with `measure=true`."""
    if config.measure is True:
        begin(OmegaConf.to_container(config))


@contextmanager
def no_folder(arguments: list[str]) -> Iterator[None]:
    """Around a command that may have `-m` in it: what Hydra writes of a sweep goes."""
    if not {"-m", "--multirun"} & set(arguments):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="metronome_") as folder:
        arguments.append(f"hydra.sweep.dir='{folder}'")
        yield


def begin(config: Any) -> None:
    """Start importing, while this process does something else.

    Args:
        config: plain containers; what its `_target_`s name is imported too.
    """
    if sys.platform == "win32":
        return
    from multiprocessing import forkserver

    multiprocessing.set_forkserver_preload([_WORK, *sorted(set(_modules(config)))])
    forkserver.ensure_running()


def _modules(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        part = dict(enumerate(part))
    if isinstance(part, dict):
        target = part.get("_target_")
        if isinstance(target, str) and "." in target:
            yield target.rpartition(".")[0]
        for value in part.values():
            yield from _modules(value)
