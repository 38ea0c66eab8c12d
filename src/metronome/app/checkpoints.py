"""Checkpoints as files: what is kept in them beside Lightning's own, and how they are read."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from metronome import __version__
from metronome.app.logs import log_positions
from metronome.units import InputError

if TYPE_CHECKING:
    from metronome.app.run import Run

log = logging.getLogger("metronome")

KEY = "metronome"


class KeepConfig(Callback):
    """Keeps in each checkpoint the run's configuration, so that a checkpoint is all one needs, and how far its logs had
    come."""

    def __init__(self, run: "Run") -> None:
        self.folder = run.folder
        self.about = {"version": __version__, "experiment": run.experiment, "config": run.config}

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        for name in ("hyper_parameters", "datamodule_hyper_parameters", "callbacks"):
            if (culprit := _not_plain(checkpoint.get(name))) is not None:
                raise InputError(
                    f"an object of class {type(culprit).__name__} in the checkpoint's {name} could not be loaded as "
                    "plain data; keep numbers, texts, lists and dicts, and save_hyperparameters(ignore=[...]) the rest"
                )
        positions = log_positions(trainer.loggers, self.folder) if trainer.is_global_zero else {}
        checkpoint[KEY] = self.about | {"logs": positions}


def _not_plain(content: Any) -> Any:
    """The first object in a nesting that `torch.load(weights_only=True)` would refuse; None if there is none."""
    if isinstance(content, dict):
        content = [*content.keys(), *content.values()]
    if isinstance(content, list | tuple | set):
        return next((found for item in content if (found := _not_plain(item)) is not None), None)
    plain = isinstance(
        content, str | bytes | int | float | complex | torch.Tensor | torch.Size | torch.dtype | torch.device
    )
    return None if plain or content is None else content


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents, tensors on the CPU. Never runs code from the file.

    Raises:
        InputError: if there is no such file, or it is no checkpoint of plain containers and tensors.
    """
    path = Path(path)
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise InputError(f"checkpoint {path} is {kind}; give the path of a file such as runs/.../checkpoints/best.ckpt")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to say
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"checkpoint {path} cannot be read as plain data: {reason[:160]}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"checkpoint {path} is a file of another kind: it has no state_dict")
    return checkpoint


def newest_whole(files: list[Path]) -> Path | None:
    """The checkpoint with the most steps that can be read to its last byte; others are passed over, and said so."""
    found: list[tuple[int, int, Path]] = []
    for file in files:
        try:
            found.append((read_checkpoint(file)["global_step"], file.stat().st_mtime_ns, file))
        except (InputError, KeyError) as error:
            log.warning("passed over: %s", error)
    for *_, file in sorted(found, reverse=True):
        with ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return file
        log.warning("passed over: checkpoint %s is damaged in %s", file, damaged)
    return None


def check_fits(checkpoint: dict[str, Any], model: L.LightningModule, path: str | Path) -> None:
    """Raises InputError if the checkpoint's weights are not those of the model."""
    theirs, ours = checkpoint["state_dict"], model.state_dict()
    different = [name for name in ours if name not in theirs] + [name for name in theirs if name not in ours]
    if different:
        side = "lacks" if different[0] not in theirs else "has in excess"
        raise InputError(
            f"checkpoint {path} is of another model: it {side} {different[0]}"
            + (f" and {len(different) - 1} more" if len(different) > 1 else "")
        )
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape:
            raise InputError(
                f"checkpoint {path} is of another model: {name} has shape {tuple(theirs[name].shape)} there and "
                f"{tuple(tensor.shape)} here"
            )


def model_checkpoint(trainer: L.Trainer) -> ModelCheckpoint | None:
    """The callback that keeps the best checkpoint: the first that monitors something, or else the first."""
    found = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return next((c for c in found if c.monitor), found[0] if found else None)
