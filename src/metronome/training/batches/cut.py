"""Cutting a batch into micro-batches, and joining what they give back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metronome.training.batches.pieces import Kind, Misfit, Pieced, is_record, length, named_parts
from metronome.units import InputError, even_split

HINT = "implement count_samples(batch) and cut_batch(batch, sizes) in the data module"


def count_samples(batch: Any, known: Sequence[int] = ()) -> int:
    """Samples in a batch: the length of the first dimension that all its tensors share, or of its lists of items.

    Args:
        batch: of any structure.
        known: numbers of samples that a batch may have; the first that fits is taken.

    Raises:
        InputError: if the batch holds no tensor, or tensors of different lengths, or may have one number or another.
    """
    parts = batch if type(batch) in (tuple, list) else batch.values() if type(batch) is dict else (batch,)
    if all(type(part) is Tensor and part.ndim > 0 for part in parts):  # the usual batch, and quickly
        first, *others = [length(part) for part in parts] or [0]
        if first and all(other == first for other in others) and (not known or first in known):
            return first
    for samples in known:
        if _reads(batch, samples) is not None:
            return samples
    rows, lists = set(_lengths(batch, of_rows=True)), set(_lengths(batch, of_rows=False))
    found = {samples: _reads(batch, samples) for samples in sorted(rows | lists)}
    fitting = [samples for samples, is_complete in found.items() if is_complete is not None]
    if len(rows) == 1 and found[next(iter(rows))]:
        return rows.pop()
    if len(fitting) == 1:
        return fitting[0]
    lengths = f"tensors of lengths {sorted(rows)}" if rows else f"no tensor in a {type(batch).__name__}"
    words = f"it may have {' or '.join(map(str, fitting))}" if fitting else f"found {lengths}"
    raise InputError(f"cannot count the samples of a batch: {words}; {HINT}")


def cut_batch(batch: Any, sizes: Sequence[int], doubt: Callable[[str], Any] = lambda words: None) -> list[Any]:
    """Cut every tensor of a batch along its first dimension into pieces of the given sizes (views, no copies).

    Any nesting of tuples, lists, dicts, named tuples and dataclasses is kept. Lists and tuples of one item a sample
    (strings, images of different sizes, targets) are cut alike; plain values go whole to each piece.

    Args:
        batch: of any structure.
        sizes: samples of each piece.
        doubt: told in words what is cut so because it is likely, and not certain.

    Raises:
        InputError: if a part cannot be cut: a tensor's first dimension differs from the sum of the sizes, say.
    """
    try:
        cut = Pieced(sizes, doubt)(batch)
        if cut.kind == Kind.WHOLE:
            raise Misfit(f"nothing in a {type(batch).__name__} that could be cut")
    except Misfit as found:
        raise InputError(f"cannot cut a batch of {sum(sizes)} samples: it holds {found}; {HINT}") from None
    return cut.pieces


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
            parts = [times_weight(v, n) for v, n in pairs]
            joined[name] = sum(parts) / sum(n for _, n in pairs) if pairs else values[-1]
    return joined


def times_weight(value: Tensor, weight: int | float | Tensor) -> Tensor:
    """A mean times what it weighs; that over nothing is no number, and times 0 would stay none."""
    if not isinstance(weight, Tensor):
        return value * weight
    if value.is_floating_point():
        weight = weight.to(value.dtype)  # of two numbers the more precise type would win
    return torch.where(weight > 0, value, 0.0) * weight


def _reads(batch: Any, samples: int) -> bool | None:
    """Whether all of a batch is as long as so many samples; None if it cannot have so many."""
    try:
        cut = Pieced([samples])(batch)
    except Misfit:
        return None
    return cut.is_complete if cut.kind != Kind.WHOLE else None


def _lengths(part: Any, of_rows: bool, is_nested: bool = False) -> Iterator[int]:
    """Of the tensors and arrays in a part of a batch, or of the lists and tuples in it."""
    if isinstance(part, Tensor | np.ndarray):
        if of_rows and part.ndim:
            yield length(part) if isinstance(part, Tensor) else len(part)
        return
    if isinstance(part, list | tuple) and not hasattr(part, "_fields") and not of_rows and is_nested and part:
        yield len(part)
    held = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    if is_record(part):
        held = named_parts(part).values()
    for item in held:
        yield from _lengths(item, of_rows, is_nested=True)
