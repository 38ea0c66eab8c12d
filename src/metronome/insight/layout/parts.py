"""How the loss of a batch comes out of the losses of its parts: a mean of them, a sum, or neither."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from metronome.insight.layout.measure import Pass

_ENTRIES = 100_000  # of a gradient, evenly taken: enough for a few unknowns


class Kind(Enum):
    MEAN = "a mean over something else than samples"
    SUM = "a sum"
    SCALED = "neither a mean nor a sum"
    COUPLED = "not made of its parts"
    NOT_KNOWN = "too few weights to tell"


def kind_of(whole: Pass, parts: Sequence[Pass], tolerance: float) -> tuple[Kind, list[float]]:
    """What the loss of a batch is of the losses of its parts, and the factor of each part.

    The gradient of the whole batch is solved for factors of its parts' gradients: there are far more equations than
    parts, so that a loss which is not made of its parts has no solution. Factors of 1 make a sum; factors that add up
    to 1 a mean, in which they are each part's share of what it divides by.
    """
    rows = torch.stack([_row(part, whole) for part in parts], dim=1)
    goal = _row(whole, whole)
    if len(goal) < 3 * len(parts) or int(torch.linalg.matrix_rank(rows)) < len(parts):
        return Kind.NOT_KNOWN, []
    solved = torch.linalg.lstsq(rows, goal.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    if float((rows @ solved - goal).norm()) > tolerance * float(goal.norm()):
        return Kind.COUPLED, []
    factors = solved.tolist()
    if all(abs(factor - 1) < tolerance for factor in factors):
        return Kind.SUM, [1.0] * len(factors)
    if abs(sum(factors) - 1) < tolerance and min(factors) > -tolerance:
        return Kind.MEAN, factors
    return Kind.SCALED, factors


def _row(made: Pass, whole: Pass) -> Tensor:
    """Some of a gradient's entries, then the loss, brought to their size."""
    flat = torch.cat([g.flatten() for g in made.gradient.values()])
    size = torch.cat([g.flatten() for g in whole.gradient.values()]).double().norm()
    flat = flat[:: -(-len(flat) // _ENTRIES)].double().cpu()
    loss = torch.tensor([made.loss], dtype=torch.float64) / (abs(whole.loss) or 1) * size.cpu()
    return torch.cat([flat, loss])


def counted_as(micro_batches: Sequence[Any], factors: Sequence[float], tolerance: float) -> str | None:
    """What could be counted in a batch so that its parts weigh this, as an expression; None if nothing is found."""
    for found in zip(*map(_counts, micro_batches), strict=True):
        counts = [count for _, count in found]
        total = sum(counts)
        if total > 0 and all(abs(c / total - f) < tolerance for c, f in zip(counts, factors, strict=True)):
            return found[0][0]
    return None


def _counts(batch: Any) -> Iterator[tuple[str, float]]:
    for path, tensor in _tensors(batch, "batch"):
        if not (tensor.is_floating_point() or tensor.is_complex()):
            yield f"({path} != -100).sum()", float((tensor != -100).sum())
            yield f"({path} != 0).sum()", float((tensor != 0).sum())
        yield f"{path}.sum()", float(tensor.sum().real)


def _tensors(batch: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield path, batch
    elif isinstance(batch, dict):
        for key, item in batch.items():
            yield from _tensors(item, f"{path}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for i, item in enumerate(batch):
            yield from _tensors(item, f"{path}[{i}]")
