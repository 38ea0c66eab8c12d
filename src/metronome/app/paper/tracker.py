"""Bytes that live while a step is made, tensor by tensor: of real ones, or of tensors that have a shape and no data."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages that operations make while it is on, from their making to their end.

    What was there before is not counted. Storages count as gradients from the moment they are added to a parameter.

    Attributes:
        now, peak: bytes of all of them.
        peak_but_gradients: the most of those that are no gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.gradients = self.peak_but_gradients = 0
        self._known: dict[int, int] = {}  # storages by identity: bytes
        self._of_gradients: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._see(tensor, was_there=True)
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        self._look()
        return made

    def _see(self, tensor: Tensor, was_there: bool = False) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            self._known[id(storage)] = count = 0 if was_there else storage.nbytes()
            self.now += count
            weakref.finalize(storage, self._gone, id(storage))

    def _gone(self, storage: int) -> None:
        count = self._known.pop(storage, 0)
        self.now -= count
        if storage in self._of_gradients:
            self._of_gradients.remove(storage)
            self.gradients -= count

    def _look(self) -> None:
        self.peak = max(self.peak, self.now)
        self.peak_but_gradients = max(self.peak_but_gradients, self.now - self.gradients)

    def begin(self) -> None:
        """Look for the most from now on."""
        self.peak, self.peak_but_gradients = self.now, self.now - self.gradients

    def watch_gradients(self, module: nn.Module) -> None:
        """Tell gradients of the module's parameters from the rest."""

        def added(parameter: Tensor) -> None:
            gradient = parameter.grad
            storage = None if gradient is None else gradient.untyped_storage()
            if storage is not None and id(storage) in self._known and id(storage) not in self._of_gradients:
                self._of_gradients.add(id(storage))
                self.gradients += self._known[id(storage)]

        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(added)


def bytes_of(tensors: Any) -> int:
    """Bytes of all tensors in any nesting."""
    return sum(t.numel() * t.element_size() for t in tree_leaves(tensors) if isinstance(t, torch.Tensor))
