"""Which parts of a module are spread over the devices, each as one: its networks, and in them what repeats."""

from collections import Counter
from collections.abc import Iterator, Sequence

import lightning as L
from torch import nn

from metronome.training.networks import networks_of
from metronome.units import InputError

_HOLD_OTHERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def networks_and_blocks(
    module: L.LightningModule, kinds: Sequence[str] | None
) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Each network of a module with its blocks, the inner ones first.

    Args:
        kinds: names of the classes that are blocks; None: of what a list or a sequence holds several times with
            matrices in it, each is one.

    A part that shares a weight with what is outside of it (tied embeddings) is none: that weight is gathered with those
    of a larger part, which holds all that use it.

    Raises:
        InputError: for names of which the module has nothing.
    """
    found, users = [], users_of_weights(module)
    for network in networks_of(module.children()):
        blocks = list(_repeated(network)) if kinds is None else _named(network, kinds)
        found.append((network, [b for b in dict.fromkeys(blocks) if b is not network and not is_tied(b, users)]))
    if kinds is not None:
        there = {type(part).__name__ for part in module.modules() if next(part.parameters(), None) is not None}
        if missing := [kind for kind in kinds if kind not in there]:
            own = ", ".join(sorted(there - {type(module).__name__}))
            raise InputError(
                f"trainer.strategy.shard_modules has {missing[0]}, and no part of {type(module).__name__} is of a "
                f"class of that name; there is: {own}"
            )
    return found


def weights_outside(module: L.LightningModule, networks: Sequence[nn.Module]) -> list[str]:
    """Names of weights that are the module's own, or shared by its networks, and in none of these."""
    inside = {id(weight) for network in networks for weight in network.parameters()}
    return [name for name, weight in module.named_parameters() if id(weight) not in inside]


def is_tied(part: nn.Module, users: dict[int, set[int]]) -> bool:
    """Whether a weight in a part is used outside of it, too; `users` those of all of them."""
    inside = {id(module) for module in part.modules()}
    return any(not users[id(weight)] <= inside for weight in part.parameters())


def users_of_weights(module: nn.Module) -> dict[int, set[int]]:
    """By the identity of a weight those of the parts that have it as their own."""
    users: dict[int, set[int]] = {}
    for part in module.modules():
        for weight in part.parameters(recurse=False):
            users.setdefault(id(weight), set()).add(id(part))
    return users


def _repeated(module: nn.Module) -> Iterator[nn.Module]:
    counts: Counter[type] = Counter()
    if isinstance(module, _HOLD_OTHERS):
        counts.update(type(child) for child in module.children() if not isinstance(child, _HOLD_OTHERS))
    for child in module.children():
        if counts[type(child)] > 1 and any(weight.ndim > 1 for weight in child.parameters()):
            yield child
        else:
            yield from _repeated(child)


def _named(network: nn.Module, kinds: Sequence[str]) -> list[nn.Module]:
    """Those within others first, as they must be spread before them."""
    return [part for part in network.modules() if type(part).__name__ in kinds][::-1]
