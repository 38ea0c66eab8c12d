"""What `training_step` leaves behind for the next micro-batch: state that it goes on from, weights that it changes."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torchmetrics import Metric

from metronome.training.guards.put_back.attributes import BOOKS
from metronome.training.looks.across_samples import spectral_norms
from metronome.training.looks.plain_state import changed, plain_state, random_state
from metronome.training.sharded.tensors import is_sharded


class LeftBehind:
    """Looks at a module before and after it has had a micro-batch.

    Attributes:
        weights: names of parameters that have changed.
        buffers: names of buffers that have; not of norms, which are looked at by themselves.
        carried: names of attributes whose tensors are written into, or taken up by a later micro-batch.
        plain: names of attributes whose numbers, lists or arrays have changed.
        draws: whether random numbers were drawn.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.weights, self.buffers, self.carried = set[str](), set[str](), set[str]()
        self.plain, self.draws = set[str](), False
        self._left: dict[int, tuple[str, Tensor]] = {}  # by id, held so that no other gets it
        norms = [*(m for m in module.modules() if isinstance(m, _NormBase)), *spectral_norms(module).values()]
        self._of_norms = {id(buffer) for norm in norms for buffer in norm.buffers()}

    def before(self) -> None:
        self._versions = {name: (id(value), _version(value)) for name, value in self._values()}
        # In a forward pass whole tensors stand in the place of sharded ones.
        self._sharded = {name for name, value in self._values() if is_sharded(value)}
        self._there = {id(value): _version(value) for _, value in _tensors_of(self.module)}
        self._plain, self._random = plain_state(self.module), random_state()

    def after(self) -> None:
        for name, value in self._values():
            if name in self._sharded:
                continue
            if self._versions.get(name) != (id(value), _version(value)) and id(value) not in self._of_norms:
                (self.weights if isinstance(value, nn.Parameter) else self.buffers).add(name)
        for name, value in _tensors_of(self.module):
            if id(value) not in self._there:
                self._left[id(value)] = name, value
            elif self._there[id(value)] != _version(value):
                self.carried.add(name)
        self.plain |= changed(self._plain, plain_state(self.module))
        self.draws = self.draws or self._random != random_state()

    def takes_up(self, values: Any) -> None:
        """Told what a function of PyTorch was given."""
        if self._left:
            for value in values:
                if id(value) in self._left:
                    self.carried.add(self._left[id(value)][0])
                elif type(value) in (tuple, list):
                    self.takes_up(value)

    def _values(self) -> Iterator[tuple[str, Tensor]]:
        return chain(self.module.named_parameters(), self.module.named_buffers())


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors in plain attributes of a module and its layers, and in containers there, with the attribute's name."""
    metrics = {id(part) for metric in module.modules() if isinstance(metric, Metric) for part in metric.modules()}
    for place, part in module.named_modules():
        if id(part) in metrics:  # which are joined as they must be
            continue
        for name, value in list(vars(part).items()):
            if name not in BOOKS:
                for tensor in _tensors_in(value):
                    yield f"{place}.{name}".lstrip("."), tensor


_DEEP = 3


def _tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    kind = type(value)  # what it says it is may be something else, or raise
    if issubclass(kind, Tensor):
        yield value
    elif depth < _DEEP and issubclass(kind, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(part, depth + 1)
