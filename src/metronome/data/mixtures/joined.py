"""Batches of several sets of rows as one, each sample at its place."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_flatten, tree_unflatten

from metronome.data.rows import Rows
from metronome.units import InputError


class Joined:
    """Makes one batch of the rows read from several sets. What a sample is made of is known by the first of each set:
    of one that is stored nothing else says it.

    Args:
        sets: rows, by name; in memory or stored.

    Raises:
        InputError: for sets whose samples do not make a batch together.
    """

    def __init__(self, sets: dict[str, Rows]) -> None:
        samples = {name: rows[torch.tensor([0])] for name, rows in sets.items()}
        (first, sample), *others = samples.items()
        parts, self.structure = tree_flatten(sample)
        self.fill = self._flat(_fill(sets[first])) if _fill(sets[first]) else [None] * len(parts)
        self.types = [part.dtype for part in parts]
        self.has_float64 = torch.float64 in self.types
        for name, other in others:
            try:
                there = self._flat(other)
            except ValueError as error:
                raise InputError(f"the samples of sets {first} and {name} are not made of the same parts") from error
            self.has_float64 |= any(part.dtype is torch.float64 for part in there)
            for number, (one, two) in enumerate(zip(parts, there, strict=True)):
                same_kind = one.dtype == two.dtype or (one.is_floating_point() and two.is_floating_point())
                # Those that are filled up to the longest of a batch are of any length.
                same_shape = one.ndim == two.ndim if _fill(sets[name]) else one.shape == two.shape
                if not (same_kind and same_shape) or _fill(sets[name]) != _fill(sets[first]):
                    raise InputError(
                        f"the samples of sets {first} and {name} do not make a batch: {_words(one)} and {_words(two)}"
                    )
                self.types[number] = torch.promote_types(self.types[number], two.dtype)

    def __call__(self, batches: list[Any], places: np.ndarray, floats: torch.dtype | None) -> Any:
        """The batches as one.

        Args:
            batches: of each set, in turn.
            places: int64, where each of their rows belongs in the whole batch.
            floats: the type of its floats; None: the widest that any of the sets has.
        """
        order = torch.from_numpy(np.argsort(places))
        joined = []
        for columns, dtype, value in zip(
            zip(*map(self._flat, batches), strict=True), self.types, self.fill, strict=True
        ):
            wanted = floats if floats is not None and dtype.is_floating_point else dtype
            parts = [column.to(wanted) for column in columns]
            if value is not None:
                longest = max(part.shape[1] for part in parts)
                parts = [pad(part, (0, longest - part.shape[1]), value=value) for part in parts]
            joined.append(torch.cat(parts).index_select(0, order))
        return tree_unflatten(joined, self.structure)

    def _flat(self, batch: Any) -> list[Any]:
        """Its parts in the order of the first set's: a table has its columns in any."""
        return self.structure.flatten_up_to(batch)


def _fill(rows: Rows) -> Any:
    return getattr(rows.columns, "fill", None)


def _words(column: Tensor) -> str:
    return f"{str(column.dtype).removeprefix('torch.')} of shape {tuple(column.shape[1:])}"
