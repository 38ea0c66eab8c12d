"""The curves of a run that goes on, brought to the host that is to write them now."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metronome.app.hosts.company import Company
from metronome.app.hosts.sending import send

log = logging.getLogger("metronome")


def send_logs(company: Company, known: Callable[[], dict[str, int]], folder: Path, keepers: list[int]) -> None:
    """Bring the first host the log files that its checkpoint knows of, with how far they were written, from a
    host that has them; where none is there that has them, a line says so."""

    def lacking() -> list[list[Any]]:
        return [[name, position] for name, position in known().items() if not _has(folder, name, position)]

    wanted: list[list[Any]] = company.first_says(lacking)
    if not wanted:
        return
    has_all = company.from_hosts(lambda: all(_has(folder, *file) for file in wanted))
    owner = company.first_says(lambda: next((host for host in keepers if has_all[host]), None))
    if owner is not None:
        send(company, folder, owner, {0: [name for name, _ in wanted]}, folder)
    elif company.rank == 0:
        if any((folder / name).is_file() for name, _ in wanted):  # as far as they were stored
            log.warning("the last of the curves up to here are on a host that is not there: they have a gap")
        else:
            log.warning(
                "the curves up to here are on a host that is not there: they begin anew (storage=<address> keeps them)"
            )


def _has(folder: Path, name: str, position: int) -> bool:
    """Whether a log file is there, as far as it was written then: bytes of events, rows of a table."""
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():  # the name is from a checkpoint
        return False
    size = len(file.read_text().splitlines()) - 1 if file.suffix == ".csv" else file.stat().st_size
    return size >= position
