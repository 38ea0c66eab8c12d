"""Which hosts see a folder on the same disk: found out by leaving a file there, and looking for the others'."""

import secrets
import time
from pathlib import Path

from metronome.app.hosts.company import Company

# A file system over the network may show late what another host has written.
_PAUSES = (0.0, 0.3, 1.0)  # seconds


def keepers_of(company: Company, folder: Path) -> list[int]:
    """For each host the first of those that share its disk; `[0, 0, 0]` where all do. It writes what the run keeps."""
    if company.hosts == 1:
        return [0]
    token = company.first_says(lambda: secrets.token_hex(4))

    def file(host: int) -> Path:
        return folder / f".host_{host}_{token}"

    def first_seen() -> int:
        first = company.host
        for pause in _PAUSES:
            time.sleep(pause)
            first = min(host for host in range(company.hosts) if host == company.host or file(host).exists())
            if first == 0:
                break
        return first

    company.from_hosts(lambda: file(company.host).touch())
    company.first_says(lambda: None)  # all have left theirs
    found = company.from_hosts(first_seen)
    keepers = company.first_says(lambda: found)
    if company.is_keeper:
        file(company.host).unlink(missing_ok=True)
    return keepers
