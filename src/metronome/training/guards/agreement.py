"""What several devices find out together, so that all do the same after the same step."""

import time
from typing import Any

import lightning as L
import torch
from torch import distributed

# Seconds between two exchanges where steps are shorter: on two cores one takes half as long as the smallest step.
_SECONDS, _MOST_STEPS = 0.05, 1_000


class Agreement:
    """Numbers compared over the devices of a trainer. All must call each of these together."""

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer
        self._cpu_group: Any = None
        self.forget()

    def forget(self) -> None:
        """What is on its way belongs to another run."""
        self._sent: tuple[Any, torch.Tensor] | None = None
        self.new_pace()

    def new_pace(self) -> None:
        """What lies between two exchanges from here on may take another time: a batch of a validation, and not a step.
        All devices must call it together."""
        self._sent_at, self._calls, self._every = time.monotonic(), 0, 1
        self._is_measured = False  # nothing lies between the last exchange, or none, and the next one

    def any(self, flag: bool) -> bool:
        """Whether it is true on any device. Waits for all of them."""
        return bool(self.largest(int(flag))[0])

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over all devices. Waits for all of them."""
        if self.trainer.world_size == 1 or not distributed.is_initialized():  # as where forked processes have ended
            return list(numbers)
        table = torch.tensor(numbers)
        distributed.all_reduce(table, distributed.ReduceOp.MAX, group=self._group())
        return table.tolist()

    def of_each(self, number: int) -> list[int]:
        """The number of each device, by its rank. Waits for all of them; on the CPU, so for no work of a GPU."""
        table = torch.zeros(self.trainer.world_size, dtype=torch.int64)
        table[self.trainer.global_rank] = number
        distributed.all_reduce(table, group=self._group())
        return table.tolist()

    def exchange(self, *numbers: int) -> list[int]:
        """The largest of each number that was given the time before; these travel until the next time.

        A step lies between, so that nobody waits. Where steps are short, so many of them as make up a twentieth of a
        second, and in all but the last of these calls nothing is sent and zeros are returned. One device alone need
        not wait, and answers at once.
        """
        if self.trainer.world_size == 1:
            return list(numbers)
        self._calls += 1
        if self._calls < self._every:
            return [0] * len(numbers)
        received = self.receive() or [0] * len(numbers)
        seconds = max(time.monotonic() - self._sent_at, 1e-9) / self._calls  # some clocks are coarse
        steps = int(_SECONDS / seconds) if self._is_measured else 1
        fewest = -max(1, min(_MOST_STEPS, steps))  # the largest of these is of the slowest device
        table = torch.tensor([*numbers, fewest])
        work = distributed.all_reduce(table, distributed.ReduceOp.MAX, group=self._group(), async_op=True)
        self._sent, self._sent_at, self._calls = (work, table), time.monotonic(), 0
        self._is_measured = True
        return received

    def receive(self) -> list[int] | None:
        """What was sent last and nobody has read; None if nothing is on its way."""
        if self._sent is None:
            return None
        (work, table), self._sent = self._sent, None
        work.wait()
        *numbers, fewest = table.tolist()
        self._every = -fewest if self._is_measured else 1
        return numbers

    def _group(self) -> Any:
        if self._cpu_group is None and self.trainer.strategy.root_device.type != "cpu":
            # On the CPU, so that no device has to be waited for.
            self._cpu_group = distributed.new_group(backend="gloo")
        return self._cpu_group
