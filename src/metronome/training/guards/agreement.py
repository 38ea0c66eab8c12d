"""What several devices find out together, so that all do the same after the same step."""

from typing import Any

import lightning as L
import torch


class Agreement:
    """Numbers compared over the devices of a trainer. All must call each of these together."""

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer
        self._cpu_group: Any = None

    def any(self, flag: bool) -> bool:
        """Whether it is true on any device."""
        return bool(self.largest(int(flag))[0])

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over all devices."""
        trainer = self.trainer
        if trainer.world_size == 1:
            return list(numbers)
        if self._cpu_group is None and trainer.strategy.root_device.type != "cpu":
            # On the CPU, so that no device has to be waited for.
            self._cpu_group = torch.distributed.new_group(backend="gloo")
        table = torch.tensor(numbers)
        torch.distributed.all_reduce(table, torch.distributed.ReduceOp.MAX, group=self._cpu_group)
        return table.tolist()
