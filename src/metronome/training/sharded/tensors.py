"""Tensors of which each device keeps a part: made whole, and parts of whole ones.

What is no such tensor is handed back as it is, so that callers need not ask. All devices must call together what makes
whole ones, for the same tensors in the same order.
"""

from typing import Any

from torch import Tensor


def is_sharded(value: Any) -> bool:
    """Whether it is a `DTensor`, told without the second that it takes to import them."""
    return hasattr(value, "to_local")


def own_part(tensor: Any) -> Any:
    """The part that this device keeps, in the same memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Any) -> Any:
    """The whole tensor, on every device."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def gathered(content: Any, keeps: bool) -> Any:
    """The same nesting of dicts and lists with whole tensors in main memory, one after the other, so that no more than
    one is on the device at a time.

    Args:
        keeps: whether this device wants them; else it only sends its parts, and None stands in their places.
    """
    if is_sharded(content):
        full = content.full_tensor()
        return full.cpu() if keeps else None
    if isinstance(content, dict):
        parts = {key: gathered(value, keeps) for key, value in content.items()}
        return parts if type(content) is dict else _like(content, parts)
    if type(content) in (list, tuple):
        return type(content)(gathered(value, keeps) for value in content)
    return content


def part_like(full: Any, like: Any) -> Any:
    """Of a whole tensor the part that this device keeps, spread as another is; nothing is sent, and no more is read."""
    if not is_sharded(like) or not isinstance(full, Tensor) or is_sharded(full) or full.shape != like.shape:
        return full
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = like.device_mesh, like.placements
    shape, offset = compute_local_shape_and_global_offset(full.shape, mesh, placements)
    own = full[tuple(slice(start, start + size) for start, size in zip(offset, shape, strict=True))]
    own = own.to(like.to_local().device, copy=True).contiguous()
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def states_like(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """The state of an optimizer of whole weights as that of this one, whose weights are spread over devices."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    of_weights = {
        index: {name: part_like(value, weights[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return state | {"state": of_weights}


def _like(content: dict[Any, Any], parts: dict[Any, Any]) -> Any:
    """An ordered dict, say, as it was."""
    other = content.copy()
    other.update(parts)
    return other
