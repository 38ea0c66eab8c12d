"""A checkpoint of sharded weights, written by all processes at once."""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from metronome.training.checkpoints.background import taken
from metronome.training.checkpoints.places import PART, put_in_place, sync_folder
from metronome.training.checkpoints.sharded.folder import MARKER, PLAIN, empty, sums_of, write_marker
from metronome.training.checkpoints.sharded.nesting import apart

_SECONDS_TO_SEE = 30  # a file on a shared file system that another host has made
_groups: dict[Any, Any] = {}  # of processes that write, by the world they are of


def write(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint to a folder that is whole or not there: each process its shards, the first one all the rest.

    What `Checkpoint(background=True)` saves is copied, and written by a thread; what it exchanges with the others
    goes over a process group of its own.

    Args:
        checkpoint: with DTensors anywhere in its dicts, lists and tuples; the first process's counts for all else.
        path: of the folder, the same on all.

    Raises:
        OSError: on all processes alike, if one of them could not write, or does not see the folder.
    """
    path, group = Path(path), _group()

    def do(checkpoint: dict[str, Any]) -> None:
        _write(checkpoint, path, group)

    if not taken(checkpoint, do):
        do(checkpoint)


def _group() -> Any:
    """The processes, on the CPU. All must ask for it together, once."""
    if not dist.is_initialized():
        return None
    world = dist.group.WORLD
    if world not in _groups:
        _groups.clear()
        _groups[world] = dist.new_group(backend="gloo")
    return _groups[world]


def _write(checkpoint: dict[str, Any], path: Path, group: Any) -> None:
    part, rank = path.with_name(path.name + PART), 0 if group is None else dist.get_rank(group)
    plain, shards = apart(checkpoint)

    def begin() -> str:
        empty(part)
        token = secrets.token_hex(8)
        (part / token).touch()
        return token

    token = _on_all(group, begin if rank == 0 else lambda: "")[0]
    _on_all(group, lambda: _must_see(part / token, rank))
    _save_shards(shards, part, group)

    def sums() -> dict[str, dict[str, int]]:
        return sums_of(part, [file.name for file in part.glob(f"__{rank}_*")])

    files = {name: known for each in _on_all(group, sums) for name, known in each.items()}

    def end() -> None:
        (part / token).unlink()
        with (part / PLAIN).open("wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
        rest = [file.name for file in part.iterdir() if file.name not in (*files, MARKER)]
        write_marker(
            part, files | sums_of(part, rest), {"processes": 1 if group is None else dist.get_world_size(group)}
        )
        sync_folder(part)
        put_in_place(part, path)

    _on_all(group, end if rank == 0 else lambda: None)


def _must_see(token: Path, rank: int) -> None:
    end = time.monotonic() + _SECONDS_TO_SEE
    while not token.exists():
        if time.monotonic() > end:
            raise OSError(None, f"process {rank} does not see it; all hosts must share the file system of the run")
        os.listdir(token.parent.parent)  # what it knew of the folder may be old
        time.sleep(0.05)


def _save_shards(shards: dict[str, Any], part: Path, group: Any) -> None:
    try:
        save(shards, storage_writer=FileSystemWriter(part), process_group=group, no_dist=group is None)
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                raise OSError(failure.errno, failure.strerror) from error
        failure, _ = next(iter(error.failures.values()))
        if "writ" in str(failure):  # PyTorch's writer, which keeps no more of it
            raise OSError(None, str(failure).splitlines()[0]) from error
        raise RuntimeError(f"{type(failure).__name__}: {failure}") from error


def _on_all(group: Any, do: Callable[[], Any]) -> list[Any]:
    """What each process has of a piece of work, by rank. Raises the error of any of them on all."""
    try:
        mine: tuple[Any, Any] = do(), None
    except Exception as error:
        reason = error if isinstance(error, OSError) else error.__context__  # PyTorch's writer says RuntimeError
        is_disk = isinstance(reason, OSError)
        mine = None, (reason.errno, reason.strerror or str(reason)) if is_disk else f"{type(error).__name__}: {error}"
    every = [mine]
    if group is not None:
        every = [mine] * dist.get_world_size(group)
        dist.all_gather_object(every, mine, group=group)
    failure = next((failure for _, failure in every if failure is not None), None)
    if failure is not None:
        raise OSError(*failure) if isinstance(failure, tuple) else RuntimeError(failure)
    return [found for found, _ in every]
