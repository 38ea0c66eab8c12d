"""Plain attributes of a module (counters, lists, dicts, deques), put back where its step is done again."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from torch import nn
from torchmetrics import Metric

from metronome.training.logged.metrics import modules_of

BOOKS = frozenset(vars(L.LightningModule()))  # what PyTorch and Lightning keep on a module
_FEW = 1_000  # items of a container; of more only the ends are looked at


def own_modules(module: nn.Module) -> list[nn.Module]:
    """The module, and those in it, that are neither PyTorch's nor torchmetrics: they may keep anything."""
    return [m for m in modules_of(module) if not isinstance(m, Metric) and not type(m).__module__.startswith("torch.")]


class Attributes:
    """The attributes of some modules as they are now: what they refer to, and what is in their containers.

    Nothing is copied but the containers themselves, of up to a thousand items. A longer list is cut back to what it
    was; what else a longer one has lost or got, the objects of other classes, and what is written into arrays, is not
    known.

    Args:
        modules: whose they are.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._owners: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._held: list[tuple[str, Any, Any]] = []
        for module in modules:
            own = vars(module)
            before = {name: value for name, value in own.items() if name not in BOOKS}
            self._owners.append((own, before))
            for name, value in before.items():
                self._hold(name, value)

    def _hold(self, name: str, value: Any) -> None:
        if type(value) not in _REFILL:
            return
        if len(value) > _FEW:
            self._held.append((name, value, _Ends(value)))
            return
        self._held.append((name, value, value.copy()))
        for item in value.values() if isinstance(value, dict) else value:
            self._hold(name, item)

    def put_back(self) -> str | None:
        """As they were. Returns the name of one that could not be."""
        for own, before in self._owners:
            for name in [name for name in own if name not in before and name not in BOOKS]:
                del own[name]
            own.update(before)
        lost = None
        for name, container, before in self._held:
            if not isinstance(before, _Ends):
                container.clear()
                _REFILL[type(container)](container, before)
            elif not before.restored(container):
                lost = name
        return lost


_REFILL: dict[type, Callable[[Any, Any], Any]] = {
    list: list.extend, deque: deque.extend, dict: dict.update, set: set.update
}  # fmt: skip


class _Ends:
    """A long container: its length, and the items at its ends."""

    def __init__(self, value: Any) -> None:
        self.length, self.ends = len(value), _ends(value, len(value))

    def restored(self, value: Any) -> bool:
        if isinstance(value, list):
            del value[self.length :]
        return len(value) == self.length and all(map(_is, self.ends, _ends(value, self.length)))


def _ends(value: Any, length: int) -> tuple[Any, ...]:
    return (value[0], value[length - 1]) if isinstance(value, list | deque) and len(value) >= length else ()


def _is(one: Any, other: Any) -> bool:
    return one is other
