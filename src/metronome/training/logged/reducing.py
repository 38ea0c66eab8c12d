"""Logged values over several devices: all sums and means of a step or an epoch in one collective."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed

from metronome.training.place import data_devices, data_group
from metronome.training.precise import most_precise
from metronome.units import InputError

# Room for this many values in the one collective that reduces them. It has the same size on every device also where
# the devices have logged different values, so that they can find that out.
_ROOM = 64

_OPERATIONS = {"sum": distributed.ReduceOp.SUM, "max": distributed.ReduceOp.MAX, "min": distributed.ReduceOp.MIN}


@dataclass(frozen=True)
class Part:
    """A device's part of a value, and how the parts of all make one: by their sum, mean, max or min.

    Attributes:
        value: of a mean, times its weight.
        weight: of a mean, for instance samples.
        operation: sum, mean, max or min.
    """

    value: Tensor
    weight: int | Tensor
    operation: str


@dataclass(frozen=True)
class Sent:
    """Values on their way between the devices: sums and means in one table, each of the others alone."""

    digest: int
    means: list[bool]
    sums: list[str]
    table: Tensor
    others: dict[str, Tensor]
    works: list[Any]

    def wait(self) -> None:
        """Until they are there."""
        for work in self.works:
            work.wait()


class Reducer:
    """Sends values by key, and receives what they are over all devices. All devices must call it together."""

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer
        self._agreed: set[int] = set()

    def send(self, parts: Mapping[str, Part]) -> Sent:
        """Begin: one collective for all sums and means, one for each largest or smallest; none is waited for, but
        where there are such as these for the first time. Raises as `received`."""
        device, group = self.trainer.strategy.root_device, data_group(self.trainer)
        dtype = most_precise(device)
        keys = sorted(parts)
        sums = [key for key in keys if parts[key].operation in ("sum", "mean")]
        digest = zlib.crc32("\n".join(keys).encode()) & 0xFFFFF  # 20 bits: its square is exact in float64
        table = torch.zeros(2, 1 + max(_ROOM, len(sums)), dtype=dtype)
        table[0, 0], table[1, 0] = digest, digest**2
        weights = [parts[key].weight for key in sums]
        for i, weight in enumerate(weights):
            if not isinstance(weight, Tensor):
                table[1, 1 + i] = weight
        table = table.to(device, non_blocking=True)
        for i, key in enumerate(sums):
            table[0, 1 + i] = parts[key].value
            if isinstance(weights[i], Tensor):
                table[1, 1 + i] = weights[i]
        works = [_begin(table, "sum", group)]
        if len(sums) < len(keys) and digest not in self._agreed:
            # Each of the others is a collective of its own, which must not meet something else of another device.
            works[0].wait()
            self._check_alike(digest, keys, table)
        others: dict[str, Tensor] = {}
        for key in keys:
            if key not in sums:
                others[key] = parts[key].value.to(device, dtype).clone()
                works.append(_begin(others[key], parts[key].operation, group))
        return Sent(digest, [parts[key].operation == "mean" for key in sums], sums, table, others, works)

    def received(self, sent: Sent) -> dict[str, Tensor]:
        """What the values are over all devices.

        Raises:
            InputError: if the devices have sent different keys.
        """
        sent.wait()
        table = sent.table
        if sent.digest not in self._agreed:
            self._check_alike(sent.digest, sorted([*sent.sums, *sent.others]), table)
        columns = enumerate(zip(sent.sums, sent.means, strict=True), start=1)
        reduced = {key: table[0, i] / table[1, i] if is_mean else table[0, i] for i, (key, is_mean) in columns}
        return reduced | sent.others

    def _check_alike(self, digest: int, keys: list[str], table: Tensor) -> None:
        # Looking costs a wait for the device, so it is done where this device's keys are new; where one
        # device's keys differ from the others', they are new to it.
        total, squares = table[:, 0].tolist()
        if total**2 != squares * data_devices(self.trainer):
            raise InputError(
                f"the devices log different values in one step or epoch (here: {', '.join(keys) or 'nothing'}); log "
                "the same on all, or use self.log(..., rank_zero_only=True)"
            )
        self._agreed.add(digest)

    def reduce(self, value: Tensor, operation: str) -> Tensor:
        """One value at once, in place; `operation` is sum, mean, max or min."""
        reduced = self.trainer.strategy.reduce(value.to(self.trainer.strategy.root_device), reduce_op=operation)
        assert isinstance(reduced, Tensor)
        return reduced


def _begin(value: Tensor, operation: str, group: Any) -> Any:
    work = distributed.all_reduce(value, _OPERATIONS[operation], group=group, async_op=True)
    assert work is not None
    return work
