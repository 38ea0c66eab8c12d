"""Files sent from one host to others that have no file system in common with it, in chunks, over gloo."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from metronome.app.hosts.company import Company
from metronome.training.checkpoints.files import written_aside
from metronome.units import RunFailed

_CHUNK = 16 * 2**20  # bytes
_SECONDS = 600  # for one chunk


def send(company: Company, source: Path, owner: int, wanted: dict[int, list[str]], target: Path) -> None:
    """Bring files of the owner's host to the hosts that want them. All processes must call it together.

    Args:
        source: the folder of the files on the owner's host.
        owner: its number.
        wanted: by host, names in that folder.
        target: the folder on this host that they go to.

    Raises:
        RunFailed: on all, if a host could not write them.
    """
    hosts = sorted({owner, *(host for host, names in wanted.items() if names)})
    names = sorted({name for names in wanted.values() for name in names})
    mine = wanted.get(company.host, [])

    def take_part() -> str | None:
        if company.host not in hosts:
            return None
        broadcast = _broadcast(company, hosts, owner)
        failure = None
        for name in names:
            chunks = _chunks(source / name if company.host == owner else None, broadcast)
            failed = _written(target / name, chunks) if name in mine and failure is None else _passed(chunks)
            failure = failure or failed
        return failure

    if names:
        failures = company.from_hosts(take_part)
        failure = company.first_says(lambda: next(filter(None, failures), None))
        if failure is not None:
            raise RunFailed(failure)


def _broadcast(company: Company, hosts: list[int], owner: int) -> Callable[[Any], Any]:
    """From the owner to the others of these hosts: in a group of their own, not that of the training."""
    from torch import distributed

    parts: Any = distributed
    place = parts.PrefixStore(f"metronome/sending/{company.calls}", company.store)
    group = parts.ProcessGroupGloo(place, hosts.index(company.host), len(hosts), timedelta(seconds=_SECONDS))

    def broadcast(tensor: Any) -> Any:
        options = parts.BroadcastOptions()
        options.rootRank = hosts.index(owner)
        group.broadcast([tensor], options).wait()
        return tensor

    return broadcast


def _chunks(file: Path | None, broadcast: Callable[[Any], Any]) -> Iterator[bytearray]:
    """A file that lies on the owner's host, where it is given by its path."""
    import torch

    left = int(broadcast(torch.tensor([file.stat().st_size if file is not None else 0])))
    content = open(file, "rb") if file is not None else None  # noqa: SIM115
    while left > 0:
        chunk = bytearray(min(left, _CHUNK))
        if content is not None:
            content.readinto(chunk)
        broadcast(torch.frombuffer(chunk, dtype=torch.uint8))
        yield chunk
        left -= len(chunk)
    if content is not None:
        content.close()


def _written(path: Path, chunks: Iterator[bytearray]) -> str | None:
    """Why they could not be written, if so; all of them have come then too, since the other hosts go on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
    except OSError as error:
        _passed(chunks)
        return f"{path} could not be written ({error.strerror})"
    return None


def _passed(chunks: Iterator[bytearray]) -> None:
    for _ in chunks:
        pass
