"""The folder of a run: what it shows, and how one process keeps it to itself."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from metronome.runs.names import CONFIG_FILE, LOCK_FILE, RESULT_FILE
from metronome.runs.overrides import what_it_is
from metronome.units import InputError


class RunFolder:
    """What a folder shows of the run in it, read each time it is asked for. The folder need not be there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def overrides(self) -> list[str] | None:
        """What the run is (`what_it_is`); None where there is no run: others have a config.yaml too."""
        try:
            config = yaml.safe_load((self.folder / CONFIG_FILE).read_text())
            return what_it_is(config["overrides"]) if "experiment" in config else None
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            return None

    @property
    def status(self) -> str | None:
        """How it ended; None if it has not: it runs, or was cut off."""
        try:
            return json.loads((self.folder / RESULT_FILE).read_text()).get("status")
        except (OSError, ValueError, AttributeError):
            return None

    @property
    def started(self) -> int:
        """When it was started last, in nanoseconds: each start writes config.yaml."""
        return (self.folder / CONFIG_FILE).stat().st_mtime_ns

    @property
    def checkpoints(self) -> dict[Path, int]:
        """Its files, or folders of shards, and when each was written, in nanoseconds."""
        found: dict[Path, int] = {}
        for file in [*self.folder.glob("*.ckpt"), *self.folder.glob("checkpoints/**/*.ckpt")]:
            with suppress(FileNotFoundError):  # a run that goes on now has put another in its place
                found[file] = file.stat().st_mtime_ns
        return found


def runs_in(base: Path) -> list[RunFolder]:
    """The runs that lie in a folder."""
    return [RunFolder(file.parent) for file in base.glob(f"*/{CONFIG_FILE}")]


def run_around(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote a checkpoint; None if it does not lie in one."""
    folders = checkpoint.absolute().parents[:3]
    return next((folder for folder in folders if RunFolder(folder).overrides is not None), None)


def relative(folder: Path) -> str:
    """A folder's name from here, if it lies below."""
    name = os.path.relpath(folder)
    return str(folder) if name.startswith("..") else name


def hold(folder: Path) -> Any:
    """Hold the folder until this process ends, however it ends, or what is returned is closed; None where the system
    has no locks. Raises InputError if another process holds it."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError:  # Windows
        return None
    file = open(folder / LOCK_FILE, "w")  # noqa: SIM115
    try:
        lockf(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"another process works in the folder {relative(folder)}; wait for it, or stop it") from None
    except OSError:
        pass  # a file system without locks
    return file
