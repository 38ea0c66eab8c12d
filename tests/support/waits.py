"""Where a training would wait for a far device: found on a CPU, by what waits on a GPU whatever it is called by.

A program waits where a number or a tensor comes from the device (`item`, `float(t)`, `if t`, `cpu`, `tolist`, `numpy`,
`print`), where the shape of a result depends on values (`nonzero`, a mask as an index, `unique`), and where a number
goes there (`torch.tensor(x, device=...)`). Not seen is `to(device)` of a tensor in ordinary memory: here it does
nothing.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from metronome.data import on_device
from metronome.insight.live_values import LiveValues
from metronome.training.guards.nonfinite import Watch

# Operators that read values: of scalars, for shapes, or to compare.
_READ = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount", "aten::repeat_interleave",
}  # fmt: skip
# Functions that read without an operator where the tensor is on the CPU, as here all are.
_FUNCTIONS = {"cpu", "tolist", "numpy", "__array__", "__repr__", "__format__", "cuda"}
_HERE = Path(__file__).parents[2]


class Wait(NamedTuple):
    """A place in which it waits: the step (from 0, as `global_step` counts), what is called, and from where."""

    step: int
    what: str
    where: str


class Waits(list[Wait]):
    """All of them while it is on; `step` is set by whoever trains.

    waits = Waits()
    with waits.noted(): ...
    """

    step = 0

    def __init__(self) -> None:
        super().__init__()
        self.in_main_memory: set[int] = set()  # addresses of tensors that are there on a GPU too

    def steps(self) -> list[int]:
        return sorted({wait.step for wait in self})

    def places(self) -> dict[str, int]:
        return dict(Counter(f"{wait.what} in {wait.where}" for wait in self))

    def note(self, what: str) -> None:
        self.append(Wait(self.step, what, _caller()))

    @contextmanager
    def noted(self) -> Iterator[None]:
        with _Functions(self), _Operators(self):
            yield


class _Operators(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        mask = name.startswith(("aten::index", "aten::index_put")) and _has_mask(args)
        far = not (args and isinstance(args[0], Tensor) and args[0].data_ptr() in self.waits.in_main_memory)
        if far and (name in _READ or mask):
            self.waits.note(name)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        reads = name in _FUNCTIONS and args and isinstance(args[0], Tensor)
        sends = name in ("tensor", "as_tensor", "asarray") and kwargs.get("device") is not None
        if name == "as_tensor" and isinstance(args[0], Tensor):
            sends = False  # it is there already
        if reads or sends:
            self.waits.note(name)
        return func(*args, **kwargs)


def _has_mask(args: Any) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _caller() -> str:
    """The nearest place outside of torch: `metronome/data/rows.py:_taken`."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and file != __file__:
            return f"{'/'.join(Path(file).parts[-3:])}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


class Arrived:
    """Loss and gradient norm of a step, on their way: in main memory, when the event has come."""

    def __init__(self, numbers: list[float]) -> None:
        self.numbers = numbers

    def tolist(self) -> list[float]:
        return self.numbers


class Event:
    """Of a device that is so many steps behind."""

    sent = 0

    def __init__(self, behind: int) -> None:
        Event.sent += 1
        self.due = Event.sent + behind

    def query(self) -> bool:
        return self.due <= Event.sent

    def synchronize(self) -> None:
        self.due = 0


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is a far device, two steps behind, with the data on it."""

    def send(values: Tensor) -> Any:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            return Arrived([float(value) for value in values.detach().unbind()]), Event(2)

    for owner in (Watch, LiveValues):
        monkeypatch.setattr(owner, "_is_far", staticmethod(lambda values: True))
        monkeypatch.setattr(owner, "_send", staticmethod(send))
    monkeypatch.setattr(on_device, "is_far", lambda device: True)
    monkeypatch.setattr(on_device, "free_bytes", lambda device: 10**12)
