"""Cutting a batch into micro-batches, and joining what they give back."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from metronome.units import InputError, even_split

_HINT = "implement count_samples(batch) and cut_batch(batch, sizes) in the data module"


def count_samples(batch: Any) -> int:
    """Samples in a batch: the length of the first dimension that all its tensors share.

    Raises:
        InputError: if the batch holds no tensor, or tensors of different lengths.
    """
    lengths = {len(leaf) for leaf in _columns(batch) if isinstance(leaf, Tensor)}
    if not lengths:
        lengths = {len(leaf) for leaf in _columns(batch) if isinstance(leaf, list)}
    if len(lengths) != 1:
        found = f"tensors of lengths {sorted(lengths)}" if lengths else f"no tensor in a {type(batch).__name__}"
        raise InputError(f"cannot count the samples of a batch: found {found}; {_HINT}")
    return lengths.pop()


def cut_batch(batch: Any, sizes: Sequence[int]) -> list[Any]:
    """Cut every tensor of a batch along its first dimension into pieces of the given sizes (views, no copies).

    Any nesting of tuples, lists, dicts, named tuples and dataclasses is kept. Lists of other things (strings, say)
    are cut alike when they are as long as the tensors; everything else goes whole to each piece.

    Raises:
        InputError: if a tensor's first dimension differs from the sum of the sizes.
    """
    total, pieces, start = sum(sizes), [], 0
    for size in sizes:

        def take(column: Any, start: int = start, end: int = start + size) -> Any:
            if isinstance(column, list) and not _is_column(column):
                return [apply_to_collection(item, (Tensor, list), take) for item in column]
            if isinstance(column, Tensor) and column.ndim == 0:
                return column
            if isinstance(column, list) and len(column) != total:
                return column
            if len(column) != total:
                raise InputError(
                    f"cannot cut a batch of {total} samples: it holds a {type(column).__name__} of length "
                    f"{len(column)}; {_HINT}"
                )
            return column[start:end]

        pieces.append(apply_to_collection(batch, (Tensor, list), take))
        start += size
    return pieces


def micro_batch_sizes(samples: int, parts: int) -> list[int]:
    """Sizes of the micro-batches of a share: as even as can be, and never empty."""
    return even_split(samples, min(parts, samples))


def join_outputs(
    outputs: Sequence[dict[str, Any]], sizes: Sequence[int], weights: Sequence[int | float | Tensor] | None = None
) -> dict[str, Any]:
    """What `training_step` returned besides the loss, for the whole share.

    Tensors with one row a sample are put end to end, scalars averaged; of anything else the last micro-batch's is kept.

    Args:
        outputs, sizes: of each micro-batch, and the samples in it.
        weights: of the scalars; None: the samples.
    """
    if 0 in sizes and any(sizes):  # those that only keep other devices company
        kept = [i for i, size in enumerate(sizes) if size]
        outputs, sizes = [outputs[i] for i in kept], [sizes[i] for i in kept]
        weights = None if weights is None else [weights[i] for i in kept]
    if len(outputs) == 1 or not any(sizes):
        return outputs[0]
    joined = dict(outputs[-1])
    for name in joined:
        values: list[Any] = [output.get(name) for output in outputs]
        if not all(isinstance(value, Tensor) for value in values):
            continue
        if all(value.ndim and len(value) == size for value, size in zip(values, sizes, strict=True)):
            joined[name] = torch.cat(values)
        elif all(value.ndim == 0 and value.is_floating_point() for value in values):
            # Of an empty micro-batch a value may be no number, and counts nothing.
            pairs = [(v, n) for v, n in zip(values, weights or sizes, strict=True) if isinstance(n, Tensor) or n]
            joined[name] = sum(v * n for v, n in pairs) / sum(n for _, n in pairs) if pairs else values[-1]
    return joined


def _is_column(value: list) -> bool:
    """Whether a list is one value a sample (strings, numbers), not a container of tensors."""
    return not any(isinstance(item, Tensor | list | tuple | dict) for item in value)


def _columns(batch: Any) -> list[Any]:
    """The tensors of a batch that have a first dimension, and its lists of plain values."""
    found: list[Any] = []

    def visit(column: Any) -> Any:
        if isinstance(column, list) and not _is_column(column):
            for item in column:
                apply_to_collection(item, (Tensor, list), visit)
        elif isinstance(column, list) or column.ndim:
            found.append(column)
        return column

    apply_to_collection(batch, (Tensor, list), visit)
    return found
