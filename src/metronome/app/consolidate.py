"""A checkpoint of sharded weights made into one ordinary file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metronome.app.run.checkpoints import check_whole, read_checkpoint
from metronome.training.checkpoints.files import CheckpointFiles, reason_not_written
from metronome.training.checkpoints.sharded.folder import is_sharded
from metronome.units import InputError, RunFailed

_OF_A_TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks")


@dataclass(frozen=True)
class Consolidated:
    """What was written: the file, its bytes, and the step that it is of."""

    path: Path
    bytes: int
    step: int


def consolidate(path: str | Path, to: str | Path, weights_only: bool = False) -> Consolidated:
    """Write a checkpoint that is a folder of shards to one file, as one device writes it.

    Args:
        path: the folder.
        to: the file; one that is there is replaced.
        weights_only: without what only a training needs that goes on.

    Raises:
        InputError: if it is no such folder, or damaged, or both are the same.
        RunFailed: if the disk is full.
    """
    path, to = Path(path), Path(to)
    if path.is_file():
        raise InputError(f"checkpoint {path} is one file already")
    if to.is_dir():
        raise InputError(
            f"{to} is a folder; give the name of a file, such as {to.name.partition('.')[0] or 'best'}.ckpt"
        )
    parts = ("state_dict",) if weights_only else None
    checkpoint: dict[str, Any] = read_checkpoint(path, parts)
    assert is_sharded(path)
    check_whole(path)
    if weights_only:
        checkpoint = {name: value for name, value in checkpoint.items() if name not in _OF_A_TRAINING}
    try:
        CheckpointFiles().save_checkpoint(checkpoint, to)
    except (OSError, RuntimeError) as error:
        if (failure := reason_not_written(to, error)) is None:
            raise
        raise RunFailed(failure) from error
    return Consolidated(to, to.stat().st_size, checkpoint["global_step"])
