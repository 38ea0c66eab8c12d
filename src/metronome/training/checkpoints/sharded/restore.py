"""Sharded weights and optimizers as a checkpoint has them, whatever number of devices has written it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.storage import StorageReader
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from metronome.training.checkpoints.sharded.folder import is_sharded
from metronome.training.checkpoints.sharded.nesting import absent, changed
from metronome.training.checkpoints.sharded.read import Shards, Whole, read_plain, read_tensors
from metronome.training.checkpoints.sharded.states import by_index, names_in
from metronome.units import InputError


def restore(path: str | Path, module: nn.Module, optimizers: list[Any], strict: bool = True) -> dict[str, Any]:
    """Put a checkpoint's weights into a sharded module, and its states into the module's optimizers; see `read_like`.

    Args:
        strict: whether the weights must have the same names.
    """
    content = read_like(path, module, optimizers)
    module.load_state_dict(content["state_dict"], strict=strict)
    for optimizer, state in zip(optimizers, content.get("optimizer_states", []), strict=False):
        optimizer.load_state_dict(state)
    return content


@torch.no_grad()
def read_like(path: str | Path, module: nn.Module, optimizers: list[Any]) -> dict[str, Any]:
    """A checkpoint as a sharded training of the module has it: each process reads what is its own, and waits for no
    other.

    Args:
        path: a folder that `write` has written, or a file of one device or of several with whole weights.
        module: cut up as it is to be trained.
        optimizers: over its weights; none where only these are wanted.

    Returns:
        The checkpoint, weights and states in it as DTensors like the module's own; optimizers' states by number.

    Raises:
        InputError: if it does not fit, or is damaged.
    """
    if is_sharded(path):
        content, reader = read_plain(path), Shards(path)
        stored = dict(absent(content))
    else:
        content, stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True), {}
        changed(content, lambda name, tensor: stored.setdefault(name, tensor))
        reader = Whole(stored)

    weights = {
        f"state_dict.{name}": torch.empty_like(tensor.detach(), dtype=stored[f"state_dict.{name}"].dtype)
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, DTensor) and f"state_dict.{name}" in stored
    }
    _check_shapes(path, weights, stored)
    states = content.get("optimizer_states", [])
    if optimizers and len(states) != len(optimizers):
        raise InputError(
            f"no run can go on from checkpoint {path}: it has the states of {len(states)} optimizers, and this "
            f"training {len(optimizers)}; keep the configuration that it was written with"
        )
    targets = weights | {
        name: tensor
        for number, (optimizer, state) in enumerate(zip(optimizers, states, strict=False))
        for name, tensor in _targets(path, optimizer, state, f"optimizer_states.{number}.state").items()
    }
    content = _with(content, targets, reader)
    if states:
        content["optimizer_states"] = [by_index(state) for state in content["optimizer_states"]]
    return content


def _with(content: dict[str, Any], targets: dict[str, Any], reader: StorageReader) -> dict[str, Any]:
    """The checkpoint with these tensors filled, and in it; of other shards those that belong to no weight, whole."""
    others = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype)
        for name, tensor in absent(content)
        if name not in targets and not name.startswith("optimizer_states.")
    }
    read_tensors(targets | others, reader)
    found = targets | others
    return changed(content, lambda name, tensor: found.get(name, tensor))


def _targets(path: str | Path, optimizer: Optimizer, state: dict[str, Any], inside: str) -> dict[str, DTensor]:
    """A shard to fill for each tensor of a sharded weight's state: cut up as the weight, if it is as large, else whole
    on each device; counts of steps are plain numbers."""
    ours, theirs = [weight for group in optimizer.param_groups for weight in group["params"]], names_in(state)
    if len(ours) != len(theirs):
        raise InputError(
            f"no run can go on from checkpoint {path}: its optimizer has {len(theirs)} weights, and this one "
            f"{len(ours)}; keep the configuration that it was written with"
        )
    found: dict[str, DTensor] = {}
    for name, weight in zip(theirs, ours, strict=True):
        for key, value in state["state"].get(name, {}).items():
            if isinstance(value, Tensor) and isinstance(weight, DTensor) and (value.dim() or value.is_meta):
                found[f"{inside}.{name}.{key}"] = _target(value, weight)
    return found


def _target(value: Tensor, weight: DTensor) -> DTensor:
    if value.shape == weight.shape:
        return torch.empty_like(weight.detach(), dtype=value.dtype)  # pyright: ignore
    mesh, local = weight.device_mesh, torch.empty(value.shape, dtype=value.dtype, device=weight.device)
    return DTensor.from_local(local, mesh, [Replicate()] * mesh.ndim, run_check=False)


def _check_shapes(path: str | Path, weights: dict[str, Any], stored: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        if (there := tuple(stored[name].shape)) != (here := tuple(weight.shape)):
            raise InputError(
                f"checkpoint {path} is of another model: {name.removeprefix('state_dict.')} has shape {there} there "
                f"and {here} here"
            )
