"""Files that are whole or not there, checkpoints above all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from metronome.training.checkpoints.background import taken
from metronome.training.checkpoints.places import PART, discard, put_in_place
from metronome.training.checkpoints.sharded.folder import is_sharded
from metronome.units import RunFailed


class NotWritten(RunFailed):
    """A checkpoint could not be written; what was there before is whole."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint aside, syncs it to the disk, and only then renames it.

    Whenever the process or the machine dies, the file of that name is the old one or the new one, whole. Lightning's
    own way writes a temporary file elsewhere and does not sync. Addresses (`s3://`) are left to Lightning. What
    `Checkpoint(background=True)` saves is written by a thread.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)

        def write(checkpoint: dict[str, Any]) -> None:
            with written_aside(path, "wb") as file:
                torch.save(checkpoint, file)

        if not taken(checkpoint, write):
            write(checkpoint)

    def load_checkpoint(self, path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """A folder of shards too, which one device or several with whole weights go on from."""
        if "://" not in str(path) and is_sharded(path):
            from metronome.training.checkpoints.sharded.read import consolidate  # takes a while to import

            return consolidate(path)
        return super().load_checkpoint(path, *arguments, **named)

    def remove_checkpoint(self, path: Any) -> None:
        if "://" in str(path):
            super().remove_checkpoint(path)
        else:
            discard(Path(path))


def reason_not_written(path: Any, error: BaseException) -> str | None:
    """In a line, if the disk is why a checkpoint could not be written; None if it is not."""
    # PyTorch's writer says RuntimeError where the disk said OSError.
    reason = error if isinstance(error, OSError) else error.__context__
    if not isinstance(error, OSError | RuntimeError) or not isinstance(reason, OSError):
        return None
    what = f"checkpoint {path} could not be written ({reason.strerror or reason})"
    return f"{what}; what was there before is whole"


@contextmanager
def written_aside(path: Path, mode: str = "w", **options: Any) -> Iterator[Any]:
    """A file to write to. When it is whole and on the disk it takes the name `path`; an error leaves nothing of it."""
    aside = path.with_name(path.name + PART)
    try:
        with open(aside, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # on a full disk it has none
        raise
