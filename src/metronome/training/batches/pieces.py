"""A batch of any structure, cut into pieces only as far as it is certain how."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_FEW = 4  # up to so many samples a batch may well have as many columns


class Misfit(Exception):
    """A part of a batch that cannot be cut; its text says what was found."""


class Kind(IntEnum):
    """What was cut of a part: nothing, lists of one value a sample, or rows of tensors."""

    WHOLE, VALUES, ROWS = 0, 1, 2


class Pieces(NamedTuple):
    """The pieces of a part, what was cut of it, and whether no list or array in it was left whole."""

    pieces: list[Any]
    kind: Kind = Kind.WHOLE
    is_complete: bool = True


class Pieced:
    """Cuts a batch, and its parts, into pieces of these sizes.

    Tensors and arrays are cut along their first dimension. A list or tuple holds either columns, each as long as the
    batch, or one item a sample (images of different sizes, targets, strings); its parts decide, and where both fit, it
    is columns.

    Args:
        sizes: samples of each piece.
        doubt: told, in words, what has been cut as is likely and not as is certain.
    """

    def __init__(self, sizes: Sequence[int], doubt: Callable[[str], Any] = lambda words: None) -> None:
        self.total, self.doubt, self.count = sum(sizes), doubt, len(sizes)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.spans = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def __call__(self, part: Any, is_nested: bool = False) -> Pieces:
        """The pieces of a part. Raises Misfit if it holds a tensor, or a structure, that cannot be cut so."""
        if isinstance(part, Tensor):
            return self._tensor(part)
        if isinstance(part, np.ndarray):
            if part.ndim == 0 or len(part) != self.total:
                return self._whole(part, is_complete=part.ndim == 0)
            return Pieces([part[span] for span in self.spans], Kind.ROWS)
        if isinstance(part, PackedSequence):
            raise Misfit("a PackedSequence")
        if _is_named(part) or isinstance(part, Mapping) or is_record(part):
            columns = part if isinstance(part, Mapping) else named_parts(part)
            return self._columns(list(columns.values()), lambda values: _rebuilt(part, list(columns), values))
        if isinstance(part, list | tuple):
            return self._sequence(part, is_nested)
        return self._object(part)

    def _whole(self, part: Any, is_complete: bool = True) -> Pieces:
        return Pieces([part] * self.count, Kind.WHOLE, is_complete)

    def _tensor(self, tensor: Tensor) -> Pieces:
        if tensor.ndim == 0:
            return self._whole(tensor)
        if (found := length(tensor)) != self.total:
            raise Misfit(f"a {type(tensor).__name__} of length {found}")
        if tensor.is_nested:
            rows, layout = tensor.unbind(), tensor.layout
            pieces = [torch.nested.as_nested_tensor(list(rows[span]), layout=layout) for span in self.spans]
        elif tensor.layout == torch.sparse_coo:
            spans = [(span.start, span.stop - span.start) for span in self.spans]
            pieces = [tensor.narrow_copy(0, start, size) for start, size in spans]
        elif tensor.layout in (torch.strided, torch._mkldnn):  # pyright: ignore
            pieces = [tensor[span] for span in self.spans]
        else:
            raise Misfit(f"a tensor with the layout {tensor.layout}")
        return Pieces(pieces, Kind.ROWS)

    def _object(self, part: Any) -> Pieces:
        held = getattr(part, "__dict__", None)
        if not isinstance(part, type) and held and any(isinstance(value, Tensor) for value in held.values()):
            raise Misfit(f"tensors in a {type(part).__name__}")
        return self._whole(part)

    def _columns(self, parts: list[Any], rebuilt: Callable[[list[Any]], Any]) -> Pieces:
        found = [self(part, is_nested=True) for part in parts]
        pieces = [rebuilt([part.pieces[i] for part in found]) for i in range(self.count)]
        kind = max((part.kind for part in found), default=Kind.WHOLE)
        return Pieces(pieces, kind, all(part.is_complete for part in found))

    def _sequence(self, part: Any, is_nested: bool) -> Pieces:
        has_items = len(part) == self.total
        if not any(_is_structured(item) for item in part):
            if has_items and part:
                self.doubt(f"a {type(part).__name__} of {self.total} values is cut as one value a sample")
                return self._items(part)
            for item in part:
                self._object(item)
            return self._whole(part, is_complete=False)
        try:
            columns = self._columns(list(part), lambda values: _rebuilt(part, None, values))
        except Misfit:
            # Two columns of two samples in a tuple are no two samples.
            if not has_items or not (is_nested or isinstance(part, list)):
                raise
            columns = None
        if columns is not None and (
            columns.kind == Kind.ROWS or (columns.kind == Kind.VALUES and columns.is_complete) or not has_items
        ):
            if has_items and is_nested:
                self.doubt(f"a {type(part).__name__} of {len(part)} is cut as columns, and not as one item a sample")
            if columns.kind == Kind.VALUES and not columns.is_complete and not self._holds_tensors(part) and is_nested:
                raise Misfit(f"a {type(part).__name__} of lists of which some have {self.total} values")
            return columns
        if self.total <= _FEW:
            self.doubt(f"a {type(part).__name__} of {self.total} is cut as one item a sample")
        return self._items(part)

    def _items(self, part: Any) -> Pieces:
        return Pieces([_rebuilt(part, None, list(part[span])) for span in self.spans], Kind.VALUES)

    @staticmethod
    def _holds_tensors(part: Any) -> bool:
        return any(isinstance(item, Tensor | np.ndarray | Mapping) for item in part)


def length(tensor: Tensor) -> int:
    """Of the first dimension; nested tensors of an older layout do not say it by `len`."""
    return tensor.size(0) if tensor.is_nested else len(tensor)


def _is_named(part: Any) -> bool:
    return isinstance(part, tuple) and hasattr(part, "_fields")


def is_record(part: Any) -> bool:
    return is_dataclass(part) and not isinstance(part, type)


def _is_structured(item: Any) -> bool:
    return isinstance(item, Tensor | np.ndarray | list | tuple | Mapping) or is_record(item)


def named_parts(part: Any) -> dict[str, Any]:
    if is_record(part):
        return {field.name: getattr(part, field.name) for field in fields(part) if hasattr(part, field.name)}
    return dict(zip(part._fields, part, strict=True))


def _rebuilt(part: Any, names: list[Any] | None, values: list[Any]) -> Any:
    """A container like this one with other parts, of these names if they have any."""
    kind: Any = type(part)
    if _is_named(part):
        return kind(*values)
    if names is None:
        return values if kind is list else tuple(values) if kind is tuple else kind(values)
    if isinstance(part, Mapping):
        if isinstance(part, defaultdict):
            return defaultdict(part.default_factory, zip(names, values, strict=True))
        pairs = zip(names, values, strict=True)
        return dict(pairs) if kind is dict else kind(OrderedDict(pairs))
    new = copy(part)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(new, name, value)  # of a frozen one too
    return new
