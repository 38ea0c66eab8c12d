"""What a module changes while it looks at a batch: the batch, weights that no optimizer trains, its own attributes."""

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import is_dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from metronome.training.guards.put_back.attributes import Attributes, own_modules
from metronome.units import RunFailed

_BATCH = "the batch"


class ChangedInPlace:
    """Puts a batch back for another try (keys taken out, values replaced, tensors written into), and weights too, such
    as those of a teacher that follows in `training_step`, and the module's plain attributes.

    Copies are made in the first step; from then on only of what was seen to change in it. All else is known by the
    counter of each tensor of how often it was written into.

    Args:
        trainer: with its module and its optimizers.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer = trainer
        self._owners: list[nn.Module] | None = None
        self._changing: set[str] | None = None  # what is copied; None: all that may be

    @torch.no_grad()
    def remember(self, batch: Any) -> None:
        """Before the passes over a batch."""
        if self._owners is None:
            self._owners = own_modules(self.trainer.lightning_module)
        self._attributes = Attributes(self._owners)
        self._put_containers_back, tensors = _containers(batch)
        self._seen = [(_BATCH, tensor, self._copy(_BATCH, tensor), _version(tensor)) for tensor in tensors]
        trained = {id(p) for o in self.trainer.optimizers for group in o.param_groups for p in group["params"]}
        for name, parameter in self.trainer.lightning_module.named_parameters():
            copy = None if id(parameter) in trained else self._copy(name, parameter)
            self._seen.append((name, parameter, copy, _version(parameter)))

    def learn(self) -> None:
        """After passes that need not be made again: what they have changed is copied from now on."""
        changed = {name for name, tensor, _, version in self._seen if _version(tensor) != version}
        self._changing = changed if self._changing is None else self._changing | changed
        self._seen = []

    @torch.no_grad()
    def put_back(self) -> None:
        """Everything as it was. Raises RunFailed for what was changed and has no copy."""
        self._put_containers_back()
        if (lost := self._attributes.put_back()) is not None:
            raise self._cannot(f"self.{lost}")
        for name, tensor, copy, version in self._seen:
            if copy is not None:
                tensor.copy_(copy)
            elif _version(tensor) != version:
                raise self._cannot(name)

    def _cannot(self, name: str) -> RunFailed:
        return RunFailed(
            f"out of memory in step {self.trainer.global_step + 1:,}, which cannot be done again: training_step has "
            f"changed {name} in place; let it change a copy, or give trainer.accumulate_grad_batches a number"
        )

    def _copy(self, name: str, tensor: Tensor) -> Tensor | None:
        if self._changing is not None and name not in self._changing:
            return None
        return tensor.detach().clone()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _containers(batch: Any) -> tuple[Callable[[], None], list[Tensor]]:
    """Puts the containers of a batch back as they are now; and its tensors."""
    held: list[tuple[Any, Any]] = []
    tensors: list[Tensor] = []

    def visit(part: Any) -> None:
        inner: Iterable[Any] = ()
        if isinstance(part, Tensor):
            tensors.append(part)
        elif isinstance(part, MutableMapping | list):
            inner = list(part.values()) if isinstance(part, MutableMapping) else part
            held.append((part, dict(part) if isinstance(part, MutableMapping) else list(part)))
        elif isinstance(part, tuple):
            inner = part
        elif is_dataclass(part) and not isinstance(part, type):
            inner = vars(part).values()
            held.append((vars(part), vars(part).copy()))
        for item in inner:
            visit(item)

    def put_back() -> None:
        for container, before in held:
            container.clear()
            container.extend(before) if isinstance(container, list) else container.update(before)

    visit(batch)
    return put_back, tensors
