"""The tensors of a checkpoint that are cut up over devices, apart from all the rest of it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def apart(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DTensor]]:
    """A checkpoint without its sharded tensors, and these by name.

    In their place are tensors without memory (on the device `meta`), which tell shape and type.
    """
    shards: dict[str, DTensor] = {}

    def keep(name: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        shards[name] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return changed(checkpoint, keep), shards


def together(plain: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """The same with these tensors in their places; others stay as they are."""
    return changed(plain, lambda name, tensor: tensors.get(name, tensor) if tensor.is_meta else tensor)


def absent(plain: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Name, and a tensor without memory, of each that was cut up."""
    found: list[tuple[str, Tensor]] = []

    def look(name: str, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            found.append((name, tensor))
        return tensor

    changed(plain, look)
    yield from found


def changed(content: Any, change: Callable[[str, Tensor], Any], name: str = "") -> Any:
    """A nesting of dicts, lists and tuples with each tensor changed; the name of each is its keys, joined by dots."""
    if isinstance(content, Tensor):
        return change(name, content)
    inside = f"{name}." if name else ""
    if isinstance(content, dict):
        return {key: changed(value, change, f"{inside}{key}") for key, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(changed(value, change, f"{inside}{i}") for i, value in enumerate(content))
    return content
