"""Values to show while a training goes on, without waiting for the device that they are on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metronome.training.guards.arriving import is_far, send


class LiveValues:
    """On a CPU the values as they are. On a GPU those that were sent off when it was asked before: nobody waits for a
    line that is drawn anew in a moment."""

    def __init__(self) -> None:
        self._latest: dict[str, float] = {}
        self._on_the_way: tuple[list[str], Tensor, Any] | None = None

    def of(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers for these scalars, by their names; of an earlier step, or none yet, on a GPU."""
        if not any(self._is_far(value) for value in metrics.values()):
            return {name: value.item() for name, value in metrics.items()}
        if self._on_the_way is not None and self._on_the_way[2].query():
            names, host, _ = self._on_the_way
            self._latest, self._on_the_way = dict(zip(names, host.tolist(), strict=True)), None
        if self._on_the_way is None:
            values = torch.stack([value.detach().double().reshape(()) for value in metrics.values()])
            self._on_the_way = list(metrics), *self._send(values)
        return self._latest

    _is_far, _send = staticmethod(is_far), staticmethod(send)
