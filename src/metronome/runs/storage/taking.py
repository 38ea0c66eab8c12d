"""What a run's folder holds at one moment, kept still while it is stored and the training goes on."""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from metronome.runs.names import CONFIG_FILE, PLAN_FILE, RESULT_FILE, STORAGE_FOLDER

# Only ever grow: as far as they are now.
_GROWING = ("*.log", "*tfevents*")
# Take their names when they are whole, so that a second name for the same bytes (a hard link) keeps them.
_RENAMED = ("*.ckpt", CONFIG_FILE, PLAN_FILE, RESULT_FILE)
# Written anew in their place.
_REWRITTEN = ("metrics.csv", "hparams.yaml")
_TRIES = 20

State = dict[str, os.stat_result]
Key = tuple[int, int, int]  # of a file: inode, size, time


@dataclass(frozen=True)
class Taken:
    """A file as it was, under another name."""

    path: Path
    size: int
    mtime_ns: int
    inode: int


def is_checkpoint(name: str) -> bool:
    """Whether a file is a checkpoint, or lies in one that is a folder.

    >>> is_checkpoint("checkpoints/last.ckpt"), is_checkpoint("checkpoints/last.ckpt/__0_0.distcp")
    (True, True)
    """
    return any(part.endswith(".ckpt") for part in name.split("/"))


def look(folder: Path, everything: bool = False) -> State:
    """The files of a run, by their names in its folder, and what each is like: those that matter for going on, or all.

    Not what is half written, what is hidden (but in a checkpoint that is a folder), and what is another run's.
    """
    found: State = {}
    for base, folders, files in os.walk(folder):
        if Path(base) != folder and CONFIG_FILE in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".part")]
        for file in files:
            path = Path(base, file)
            name = path.relative_to(folder).as_posix()
            is_hidden = file.startswith(".") and not is_checkpoint(name.rpartition("/")[0])
            if is_hidden or file.endswith(".part") or not (everything or _matters(name)):
                continue
            with suppress(FileNotFoundError):  # gone since it was listed
                found[name] = path.stat()
    return found


def newest_checkpoint(times: Mapping[str, int]) -> int:
    """When the newest checkpoint of a run was written, in nanoseconds; 0 if there is none."""
    return max((time for name, time in times.items() if is_checkpoint(name)), default=0)


def signature(state: State) -> dict[str, Key]:
    """By what is seen that a run has left something new: its checkpoints, and what it is and came to."""
    return {name: key_of(stat) for name, stat in state.items() if not _is(name, (*_GROWING, *_REWRITTEN))}


class Shelf:
    """Where files are kept still: a hidden folder in that of the run, on the same disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.aside = folder, folder / STORAGE_FOLDER / "out"
        self._count = 0

    def take(self, everything: bool, known: Mapping[str, Key]) -> tuple[State, dict[str, Taken]]:
        """The files of the folder at one moment, and those of them kept still that are not known as they are.

        Where a checkpoint is written meanwhile, all are taken again.
        """
        for _ in range(_TRIES):
            self.clear()
            self.aside.mkdir(parents=True, exist_ok=True)
            state = look(self.folder, everything)
            same = {name for name, stat in state.items() if known.get(name) == key_of(stat)}
            taken: dict[str, Taken] = {}
            for name in sorted(state, key=lambda name: -state[name].st_mtime_ns):
                if name not in same:
                    with suppress(FileNotFoundError):
                        taken[name] = self._take(name, state[name])
            if signature(look(self.folder, everything)) == signature(state):
                return {name: stat for name, stat in state.items() if name in taken or name in same}, taken
        raise OSError("the files of the run change faster than they can be taken")

    def clear(self) -> None:
        """Keep nothing still any more, also not what a process that was killed has kept."""
        for path in self.aside.glob("*"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.aside, ignore_errors=True)
        with suppress(OSError):
            self.aside.parent.rmdir()

    def _take(self, name: str, stat: os.stat_result) -> Taken:
        source = (self.folder / name).resolve()  # last.ckpt may be a link to another
        self._count += 1
        path = self.aside / f"{self._count}"
        path.unlink(missing_ok=True)  # to write into a second name would change the first
        if is_checkpoint(name) or _is(name, _RENAMED):
            try:
                os.link(source, path)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without them
                return _copied(source, path)
            now = path.stat()
            return Taken(path, now.st_size, now.st_mtime_ns, now.st_ino)
        if _is(name, _GROWING):
            _copy_start(source, path, stat.st_size)
            return Taken(path, path.stat().st_size, stat.st_mtime_ns, stat.st_ino)
        return _copied(source, path)


def key_of(stat: os.stat_result) -> Key:
    """By what is seen that a file has changed."""
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _matters(name: str) -> bool:
    return is_checkpoint(name) or _is(name, (*_RENAMED, *_GROWING, *_REWRITTEN))


def _is(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)


def _copied(source: Path, path: Path) -> Taken:
    """A copy of a file that may be written meanwhile: again until it was not."""
    for _ in range(_TRIES):
        before = source.stat()
        shutil.copyfile(source, path)
        after = source.stat()
        if key_of(before) == key_of(after) and path.stat().st_size == after.st_size:
            return Taken(path, after.st_size, after.st_mtime_ns, after.st_ino)
    raise OSError(f"{source} changes faster than it can be copied")


def _copy_start(source: Path, path: Path, size: int) -> None:
    with open(source, "rb") as there, open(path, "wb") as here:
        while size > 0 and (chunk := there.read(min(size, 1 << 20))):
            here.write(chunk)
            size -= len(chunk)
