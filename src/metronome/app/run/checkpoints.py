"""Checkpoints as files: what is kept in them beside Lightning's own, and how they are read."""

import logging
from collections.abc import Callable, Iterable
from errno import EINVAL
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from metronome.app.run.logs import log_positions
from metronome.runs.deciding import flat, without_known_mode
from metronome.runs.folders import relative
from metronome.training import Trainer
from metronome.training.checkpoints.sharded import folder as shards
from metronome.units import InputError, Plan
from metronome.version import __version__

log = logging.getLogger("metronome")

KEY = "metronome"
# What a training needs of a checkpoint beside the weights, and as what.
_STATES = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict, "global_step": int,
           "pytorch-lightning_version": str}  # fmt: skip


class KeepConfig(Callback):
    """Keeps in each checkpoint the run's configuration, so that a checkpoint is all one needs, and how far the run's
    logs had come by then, so that they can be taken back."""

    def __init__(self, folder: Path, experiment: str, config: dict[str, Any], on_all_hosts: bool = False) -> None:
        self.folder, self.on_all_hosts = folder, on_all_hosts  # which each keep one
        self.about = {"version": __version__, "experiment": experiment, "config": config}

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        for name in ("hyper_parameters", "datamodule_hyper_parameters"):
            # What makes parts of the module is in the configuration, from which they are made again.
            if isinstance(kept := checkpoint.get(name), dict):
                checkpoint[name] = type(kept)({k: v for k, v in kept.items() if not _is_a_part(v)})
        for name in ("hyper_parameters", "datamodule_hyper_parameters", "callbacks"):
            if (culprit := _not_plain(checkpoint.get(name))) is not None:
                raise InputError(
                    f"an object of class {type(culprit).__name__} in the checkpoint's {name} could not be loaded as "
                    "plain data; keep numbers, texts, lists and dicts, and save_hyperparameters(ignore=[...]) the rest"
                )
        positions = log_positions(trainer.loggers, self.folder) if trainer.is_global_zero else {}
        if self.on_all_hosts:
            positions = trainer.strategy.broadcast(positions)
        checkpoint[KEY] = self.about | {"logs": positions}


def call_after_first_save(trainer: Trainer, do: Callable[[], None]) -> None:
    """Once the trainer has written a checkpoint."""
    write: Any = trainer.save_checkpoint

    def save(*arguments: Any, **named: Any) -> None:
        write(*arguments, **named)
        trainer.save_checkpoint = write
        do()

    trainer.save_checkpoint = save


def _is_a_part(value: Any) -> bool:
    return isinstance(value, nn.Module | partial | Callback)


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


def read_checkpoint(path: str | Path, parts: Iterable[str] | None = None) -> dict[str, Any]:
    """A checkpoint's contents, tensors on the CPU. Never runs code from the file, or from the folder of shards.

    Args:
        path: the file or folder.
        parts: of which tensors are looked at, beside their shapes; None: all. A folder's others are not read; a file is
            read where it is looked at anyway.

    Raises:
        InputError: if there is no such file, or it is no checkpoint of plain containers and tensors.
    """
    path = Path(path)
    is_sharded = shards.is_sharded(path)
    if not path.is_file() and not is_sharded:
        kind = "a folder of another kind" if path.is_dir() else "not there"
        raise InputError(f"checkpoint {path} is {kind}; give the path of one such as runs/.../checkpoints/best.ckpt")
    try:
        checkpoint = _read_shards(path, parts) if is_sharded else _read_file(path)
    except InputError:
        raise
    except Exception as error:  # a damaged file raises whatever its bytes happen to say
        reason = _reason(error, path / shards.PLAIN if is_sharded else path)
        raise InputError(f"checkpoint {path} cannot be read as plain data: {reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"checkpoint {path} is a file of another kind: it has no state_dict")
    return checkpoint


def _read_file(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _read_shards(path: Path, parts: Iterable[str] | None) -> dict[str, Any]:
    from metronome.training.checkpoints.sharded.read import consolidate  # takes a while to import

    return consolidate(path, parts)


def _reason(error: Exception, path: Path) -> str:
    """Why PyTorch cannot load a file, without its advice for programs."""
    text = str(error)
    if isinstance(error, OSError) and error.errno != EINVAL:  # which mapping a file that is too short raises
        return error.strerror or text
    if not is_zipfile(path) or "mmap can only be used" in text:
        return "it is no checkpoint, or a damaged one" if path.stat().st_size else "it is empty"
    lines = (text.partition("WeightsUnpickler error:")[2] or text).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:160]


def newest_whole(files: list[Path]) -> Path | None:
    """The checkpoint with the most steps that can be read to its last byte; others are passed over, and said so."""
    found: list[tuple[int, int, Path]] = []
    for file in files:
        try:
            checkpoint = read_checkpoint(file, parts=())
            check_goes_on(checkpoint, file)
            found.append((checkpoint["global_step"], file.stat().st_mtime_ns, file))
        except InputError as error:
            log.warning("passed over: %s", error)
    for *_, file in sorted(found, reverse=True):
        try:
            check_whole(file)
            return file
        except InputError as error:
            log.warning("passed over: %s", error)
    return None


def check_whole(path: str | Path) -> None:
    """Read a checkpoint to its last byte. Raises InputError if a sum in it does not fit."""
    if shards.is_sharded(path):
        shards.check_whole(path)
        return
    if not is_zipfile(path):
        return  # in PyTorch's old format, which has no sums
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged file raises whatever its bytes happen to say
        damaged = f"its list of contents ({type(error).__name__})"
    if damaged is not None:
        raise InputError(f"checkpoint {path} is damaged in {damaged}")


def check_goes_on(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raises InputError if a training cannot go on from a checkpoint."""
    if "optimizer_states" not in checkpoint:
        raise InputError(f"checkpoint {path} holds weights only, and no training can go on from it")
    ours = checkpoint.get(KEY, {})
    parts = [(name, checkpoint.get(name), kind) for name, kind in _STATES.items()] + [(KEY, ours, dict)]
    parts += [(f"{KEY}.{name}", ours.get(name, {}), dict) for name in ("config", "logs") if isinstance(ours, dict)]
    for name, part, kind in parts:
        if not isinstance(part, kind):
            raise InputError(
                f"checkpoint {path} is damaged, and no training can go on from it: {name} is of type "
                f"{type(part).__name__}, not {kind.__name__}"
            )


def check_same(checkpoint: dict[str, Any], config: dict[str, Any]) -> None:
    """Raises InputError if optimizer or scheduler are to change: those of a checkpoint go on as they were."""
    before = checkpoint.get(KEY, {}).get("config", {})
    for group in ("optimizer", "scheduler"):
        theirs, ours = (without_known_mode(flat(group, part.get(group))) for part in (before, config))
        for name in [name for name in {**theirs, **ours} if group in before and theirs.get(name) != ours.get(name)]:
            raise InputError(
                f"{name}={ours.get(name)}, and the checkpoint has {theirs.get(name)}, which a run that goes on keeps; "
                "leave it as it was, or begin anew"
            )
    rule, key = flat("optimizer", config.get("optimizer")).get("optimizer.scale_lr"), "data.batch_size"
    theirs, ours = (flat("data", part.get("data")).get(key) for part in (before, config))
    if before and rule not in (None, "none") and theirs != ours:
        raise InputError(
            f"{key}={ours}, and the checkpoint has {theirs}: with optimizer.scale_lr={rule} that changes the learning "
            "rate, which a run that goes on keeps; leave it as it was, or begin anew"
        )


def check_end(checkpoint: dict[str, Any], trainer: Trainer, plan: Plan | None) -> None:
    """Raises InputError if a checkpoint lies beyond the end of the run that is to go on from it.

    Lightning finds it out in the middle of its restoring, when the record of the run before is gone.
    """
    for unit, done, end in _how_far(checkpoint, trainer, plan, "ready"):
        if done > end:
            raise InputError(
                f"the checkpoint is of {unit} {done:,}, and this run ends with {unit} {end:,}; let it end later, with "
                "a larger budget, trainer.max_epochs or trainer.max_steps, or give the settings that it was begun with"
            )


class NothingLeft(InputError):
    """A start that would make no step."""


def check_left(checkpoint: dict[str, Any], path: str | Path, trainer: Trainer, plan: Plan | None) -> None:
    """Raises NothingLeft if a run that starts from a checkpoint would be at its end there."""
    for unit, done, end in _how_far(checkpoint, trainer, plan, "processed"):
        if done >= end:
            longer = f"budget={2 * end}{unit}s" if trainer.budget is not None else f"trainer.max_{unit}s={2 * end}"
            raise NothingLeft(
                f"checkpoint {relative(Path(path))} is of {unit} {done:,}, where this run ends too: nothing is left to "
                f"train; to train longer let it end later, such as with {longer}"
            )
    loops = checkpoint["loops"].get("fit_loop", {})
    if (loops.get("epoch_loop.state_dict") or {}).get("should_stop"):
        raise NothingLeft(
            f"checkpoint {relative(Path(path))} is of a run that early stopping has ended, so nothing is left to "
            "train; start from an earlier checkpoint, or begin anew"
        )


def _how_far(
    checkpoint: dict[str, Any], trainer: Trainer, plan: Plan | None, epochs_are: str
) -> list[tuple[str, int, int]]:
    """The units in which a run ends: how many the checkpoint has, and how many the run will have.

    Of epochs those that were begun (`ready`), or those of which all steps have been made (`processed`).
    """
    flags: Any = trainer
    if flags.fast_dev_run:
        return []
    try:
        loops = checkpoint["loops"]["fit_loop"]
        all_are_made = loops["epoch_loop.batch_progress"]["is_last_batch"]
        epochs = loops["epoch_progress"]["current"]["ready" if all_are_made else epochs_are]
    except (KeyError, TypeError):
        epochs = 0  # of another program, or damaged: restoring it says so
    last_step = trainer.max_steps
    if last_step == -1 and trainer.max_epochs in (None, -1) and plan is not None and plan.total_steps is not None:
        last_step = plan.total_steps  # of a budget in samples
    found = (("epoch", epochs, trainer.max_epochs), ("step", checkpoint["global_step"], last_step))
    return [(unit, done, end) for unit, done, end in found if end not in (None, -1) and isinstance(done, int)]


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
        there, here = (getattr(value, "shape", None) for value in (theirs[name], tensor))
        if there != here:
            there, here = (None if shape is None else tuple(shape) for shape in (there, here))
            raise InputError(f"checkpoint {path} is of another model: {name} has shape {there} there and {here} here")


def model_checkpoint(trainer: L.Trainer) -> ModelCheckpoint | None:
    """The callback that keeps the best checkpoint: the first that monitors something, or else the first."""
    found = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    return next((c for c in found if c.monitor), found[0] if found else None)
