"""Where a checkpoint lies is taken by the next one, also where one of them is a folder: no moment has none."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

PART = ".part"  # what the name of a file or a folder ends with while it is written
_BEFORE = ".before.ckpt"  # a checkpoint like any other, should this process be killed now


def put_in_place(part: Path, path: Path) -> None:
    """Give what has been written its name, in place of what has had it.

    A file takes the place of a file in one move. A folder cannot, so that what was there is moved aside first, and goes
    when the new one has its place; `put_back` mends what a kill between the two has left.
    """
    if not part.is_dir() and not path.is_dir():
        os.replace(part, path)
        sync_folder(path.parent)
        return
    before = path.with_name(path.stem + _BEFORE)
    if path.exists():
        discard(before)
        path.rename(before)
    part.rename(path)
    sync_folder(path.parent)
    discard(before)


def put_back(folder: Path) -> None:
    """What was moved aside in a folder gets its name back, if nothing has taken it. No process may write there now."""
    for before in folder.glob(f"**/*{_BEFORE}"):
        path = before.with_name(before.name.removesuffix(_BEFORE) + ".ckpt")
        if path.exists():
            discard(before)
        else:
            before.rename(path)


def discard(path: Path) -> None:
    """Remove a file or a folder; of a folder no part is left under its name, whenever the process ends."""
    if path.is_dir():
        if path.suffix != PART:
            aside = path.with_name(path.name + PART)
            shutil.rmtree(aside, ignore_errors=True)
            path = path.rename(aside)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
