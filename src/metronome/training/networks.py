"""The networks that a module is made of."""

from collections.abc import Iterable, Iterator

import lightning as L
from torch import nn


def networks_of(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The largest parts that have weights and can be called."""
    for module in modules:
        if type(module).forward in (nn.Module.forward, L.LightningModule.forward):
            yield from networks_of(module.children())  # a list of networks, say
        elif next(module.parameters(), None) is not None:
            yield module


def class_name(module: nn.Module) -> str:
    """Of its class as it was written: PyTorch puts another in its place where it spreads a module over devices."""
    kind = type(module)
    return (kind.__mro__[2] if kind.__name__.startswith("FSDP") and len(kind.__mro__) > 3 else kind).__name__
