"""What is called in a step: every function of Python, and the methods of tensors, counted over ten steps."""

import gc
import logging
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.ERROR)

WARM_UP, STEPS = 5, 10
Switch = Callable[[bool], None]


class Small(L.LightningModule):
    """The smallest step: one layer, plain SGD, and no hook. What it does between two of its `training_step` is counted.

    Args:
        switch: turns the counting on (True) and off.
        micro_batches: into which a batch is cut: `training_step` is called so often in a step.
        logs: whether it logs its loss.
    """

    def __init__(self, switch: Switch, micro_batches: int = 1, logs: bool = False) -> None:
        super().__init__()
        self.layer, self.logs = nn.Linear(4, 1), logs
        vars(self)["passes"], vars(self)["switch"] = iter(range(10_000)), switch
        self.first, self.last = WARM_UP * micro_batches, (WARM_UP + STEPS) * micro_batches

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        number = next(vars(self)["passes"])
        if number in (self.first, self.last):
            vars(self)["switch"](number == self.first)
        loss = nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        if self.logs:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class FunctionCalls(Counter[str]):
    """Calls by full name: `inspect.signature`, `Tensor.item`."""

    def __call__(self, on: bool) -> None:
        (gc.disable if on else gc.enable)()  # or what another test has left would be taken apart here, and counted
        sys.setprofile(self._note if on else None)

    def _note(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            self[f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"] += 1
        elif event == "c_call":
            self[getattr(function, "__qualname__", "")] += 1

    def in_a_step(self, *names: str) -> dict[str, float]:
        """How often a step calls these: the ends of their names."""
        calls = {name: sum(n for full, n in self.items() if f".{full}".endswith(f".{name}")) for name in names}
        return {name: n / STEPS for name, n in calls.items()}

    def of_package(self, package: str) -> float:
        """How many calls a step makes of functions of this package."""
        return sum(n for full, n in self.items() if full.startswith(f"{package}.")) / STEPS


class TensorReads(Counter[str]):
    """Numbers that Python takes from tensors, however it does it, and copies to another device or type."""

    def __init__(self) -> None:
        super().__init__()
        self._mode = _Mode(self)

    def __call__(self, on: bool) -> None:
        if on:
            self._mode.__enter__()
        else:
            self._mode.__exit__(None, None, None)

    @property
    def in_a_step(self) -> dict[str, float]:
        names = ("aten::_local_scalar_dense", "aten::_to_copy")
        return {name: self[name] / STEPS for name in names}


class _Mode(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))
