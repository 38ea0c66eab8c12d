"""A checkpoint that is a folder: whole or not there, as one that is a file is."""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metronome.units import InputError

MARKER = "whole.json"  # written last: what must be there, and a sum over each
PLAIN = "plain.pt"  # all but the tensors that are cut up; not .ckpt, which would be a checkpoint of its own
_PIECE = 1 << 22

# torch.distributed.checkpoint writes its errors to the terminal, and raises them too.
logging.getLogger("c10d-NullHandler-dcp_logger").propagate = False


def is_sharded(path: str | Path) -> bool:
    """Whether a checkpoint is a folder of shards."""
    return (Path(path) / MARKER).is_file()


def sums_of(folder: Path, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Of each file in a folder its size in bytes and a CRC-32 over them."""
    return {name: _sum_of(folder / name) for name in names}


def _sum_of(file: Path) -> dict[str, int]:
    size, crc = 0, 0
    with file.open("rb") as content:
        while piece := content.read(_PIECE):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return {"bytes": size, "crc32": crc}


def write_marker(folder: Path, files: dict[str, dict[str, int]], about: dict[str, Any]) -> None:
    """Say that all of a folder is there."""
    with (folder / MARKER).open("w") as marker:
        json.dump(about | {"files": files}, marker, indent=1)
        marker.flush()
        os.fsync(marker.fileno())


def check_whole(path: str | Path) -> None:
    """Read a checkpoint to its last byte. Raises InputError if something in it is not as it was written."""
    path = Path(path)
    try:
        files = json.loads((path / MARKER).read_text())["files"]
        names = [(name, Path(name).name == name, known["bytes"], known["crc32"]) for name, known in files.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path} is damaged in {MARKER} ({type(error).__name__})") from error
    for name, is_inside, size, crc in names:
        try:
            found = _sum_of(path / name) if is_inside else None
        except OSError:
            raise InputError(f"checkpoint {path} is damaged: {name} is missing in it") from None
        if found != {"bytes": size, "crc32": crc}:
            raise InputError(f"checkpoint {path} is damaged in {name}")


def empty(folder: Path) -> None:
    """Make a folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
