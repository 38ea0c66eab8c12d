"""Checkpoint files that are whole or not there."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from metronome.units import RunFailed

PART = ".part"  # what the name of a file ends with while it is written


class NotWritten(RunFailed):
    """A checkpoint could not be written; what was there before is whole."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint aside, syncs it to the disk, and only then renames it.

    Whenever the process or the machine dies, the file of that name is the old one or the new one, whole. Lightning's
    own way writes a temporary file elsewhere and does not sync. Addresses (`s3://`) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + PART)
        try:
            with open(aside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
