"""Numbers of a batch's data, taken over its samples (a mean, a spread, counts), and used where a loss is made."""

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor

_SUMS = {"sum", "nansum", "count_nonzero", "bincount"}
_OVER = {*_SUMS, "mean", "nanmean", "std", "var", "std_mean", "var_mean", "max", "min", "amax", "amin", "median",
         "quantile", "norm", "vector_norm", "linalg_vector_norm", "cumsum", "sort", "argsort", "topk", "softmax",
         "log_softmax", "prod", "logsumexp", "histc", "unique", "roll", "flip"}  # fmt: skip
_DIMS = {"roll": 2, "topk": 2, "norm": 2, "vector_norm": 2, "quantile": 2}  # where it stands, if not second
# One number divided by another is told by the graph, and one added has no gradient.
_HARMLESS = {"div", "divide", "true_divide", "__truediv__", "__rtruediv__", "add", "__add__", "__radd__", "__iadd__",
             "sub", "__sub__", "__rsub__"}  # fmt: skip


class OverSamples:
    """Follows them, from call to call, within a micro-batch; of what has a gradient the graph tells."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[Any, str]] = {}  # by id, which another gets once the tensor is gone

    def clear(self) -> None:
        """The next micro-batch begins."""
        self._names.clear()

    def sees(self, name: str, args: Any, kwargs: Any, output: Any, samples: int) -> str | None:
        """Told a call, and what it gave. Returns what was taken over samples where the call uses that in the loss."""
        used = next((self._names[id(t)][1] for t in _tensors((args, kwargs)) if self._is_known(t)), None)
        if used is None and name in _OVER and _is_over_samples(name, args, kwargs, samples):
            used = name
            if any(t.requires_grad for t in _tensors(output)):
                return None
        if used is None:
            return None
        for tensor in _tensors(output):
            if tensor.requires_grad:
                return None if name in _HARMLESS and tensor.ndim == 0 else used
            self._names[id(tensor)] = weakref.ref(tensor), used
        return None

    def _is_known(self, tensor: Tensor) -> bool:
        known = self._names.get(id(tensor))
        return known is not None and known[0]() is tensor


def is_a_sum(name: str) -> bool:
    """Whether two of them make the whole batch's, so that the module can say what it divides by."""
    return name in _SUMS


def _is_over_samples(name: str, args: Any, kwargs: Any, samples: int) -> bool:
    given = args[0] if args else kwargs.get("input")
    if not isinstance(given, Tensor) or given.requires_grad or not given.ndim or given.shape[0] != samples:
        return False
    place = _DIMS.get(name, 1)
    dims = kwargs.get("dim", kwargs.get("dims", kwargs.get("axis", args[place] if len(args) > place else None)))
    if dims is None and name in ("sort", "topk", "argsort"):
        dims = -1
    if name == "flip" and len(args) > 2:
        dims = args[1:]
    if isinstance(dims, Tensor):  # max(x, y) compares one by one
        return False
    return dims is None or any(d in (0, -given.ndim) for d in ((dims,) if isinstance(dims, int) else dims))


def _tensors(value: Any, depth: int = 3) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth - 1)
