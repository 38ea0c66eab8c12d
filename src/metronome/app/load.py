"""A checkpoint is data: the module in it is made of what is allowed, and nothing in the file is ever run."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from metronome.app.config.from_checkpoint import Builder
from metronome.app.config.places import below, short
from metronome.app.config.rates import unscaled
from metronome.app.errors.messages import one_line
from metronome.app.run.checkpoints import KEY, check_fits, check_whole, read_checkpoint
from metronome.runs.storage.cache import at_hand
from metronome.training.batches.seeds import generators_as_before
from metronome.units import InputError

_PLAIN = (str, int, float, bool, type(None))
# Bounds that no configuration comes near. A file made to do harm may hold itself, or one list a million times over.
_MAX_DEPTH, _MAX_VALUES, _MAX_BITS = 50, 1_000_000, 64


def load(
    path: str | Path, allow: str | Iterable[str] = (), map_location: str | torch.device = "cpu"
) -> L.LightningModule:
    """What `metronome.load` does; it says how to use it."""
    checkpoint = read_whole(path)
    build = Builder({"model": unscaled(config_of(checkpoint, path, "model")["model"])}, path, allow)
    with generators_as_before():  # the first weights are drawn, only to be replaced
        model = build("model")
    restore(model, checkpoint, path)
    try:
        return model.to(map_location).eval()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"map_location={map_location!r} is no device to use here: {short(one_line(error))}") from error


# ---- the file -----------------------------------------------------------------------------------------


def read_whole(path: str | Path) -> dict[str, Any]:
    """A checkpoint, by path or address, that has been read to its last byte. Raises InputError for any other file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's thoughts about bytes that make no sense
        file = at_hand(path)
        checkpoint = read_checkpoint(file, parts=("state_dict",))
    check_whole(file)
    return checkpoint


def config_of(checkpoint: dict[str, Any], path: str | Path, *groups: str) -> dict[str, Any]:
    """A copy of the configuration in a checkpoint, of which nothing is resolved or made.

    Args:
        checkpoint: what `read_whole` gives.
        path: the file, for words.
        groups: those that it must have, each with a `_target_`.

    Raises:
        InputError: if there is none, or it is anything but plain data.
    """
    if KEY not in checkpoint:
        raise InputError(f"checkpoint {path} was made elsewhere, or of weights only: no configuration is in it")
    about = checkpoint[KEY]
    config = about.get("config") if type(about) is dict else None
    if type(config) is not dict:
        raise InputError(f"checkpoint {path} has no configuration where it belongs")
    try:
        config = _copy(config)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    for group in groups:
        if type(config.get(group)) is not dict or "_target_" not in config[group]:
            raise InputError(f"checkpoint {path}: its configuration has no {group} with a _target_ to make")
    return config


def _copy(config: Any) -> Any:
    """The same in new dicts and lists. Raises InputError if anything else is in it, or far too much."""
    seen = 0

    def copy(value: Any, where: str, depth: int) -> Any:
        nonlocal seen
        seen += 1
        if seen > _MAX_VALUES or depth > _MAX_DEPTH:
            raise InputError(f"its configuration is too large at {short(where)}")
        if type(value) is dict:
            keys = (copy(key, f"a key of {where or 'it'}", _MAX_DEPTH) for key in value)
            return {key: copy(value[key], below(where, key), depth + 1) for key in keys}
        if type(value) is list:
            return [copy(item, below(where, index), depth + 1) for index, item in enumerate(value)]
        if type(value) not in _PLAIN or (type(value) is int and value.bit_length() > _MAX_BITS):
            raise InputError(f"its configuration holds an unusual {type(value).__name__} at {short(where)}")
        return value

    return copy(config, "", 0)


def restore(model: Any, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Put a checkpoint's weights into its module, in the precision that they were trained in.

    Raises:
        InputError: if it is no LightningModule, or the weights are not its own.
    """
    if not isinstance(model, L.LightningModule):
        raise InputError(f"model must make a LightningModule, and it makes a {type(model).__name__}")
    weights = checkpoint["state_dict"]
    try:
        if set(model.state_dict()) != set(weights):
            model.configure_model()  # a module may make its layers there
        model.on_load_checkpoint(checkpoint)
        check_fits(checkpoint, model, path)
        trained, made = (_precisions(tensors) for tensors in (weights, model.state_dict()))
        if len(trained) == 1 and trained != made:
            model.to(dtype=trained.pop())
        model.load_state_dict(weights)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"checkpoint {path}: its weights do not fit: {short(one_line(error))}") from error


def _precisions(tensors: dict[str, torch.Tensor]) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
