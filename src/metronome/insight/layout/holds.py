"""What can make a cut batch differ from the whole one, held still: with and without it, the difference tells."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from metronome.insight.layout.kept import Kept
from metronome.training.looks.across_samples import HOOK, backward_hooks, batch_norms, spectral_norms
from metronome.training.step.ways import Ways


class Hold(Enum):
    """Held still: weights and state put back before each micro-batch, norms in eval mode, no random numbers, no hooks
    after the backward pass."""

    WEIGHTS = "weights"
    STATE = "state"
    BATCH_NORM = "batch norm"
    SPECTRAL_NORM = "spectral norm"
    DROPOUT = "dropout"
    RANDOM = "random numbers"
    HOOK = "gradients changed"


ALL = frozenset(Hold)


class Draws(TorchDispatchMode):
    """Notes of which kind the random numbers are that PyTorch draws; of a kind that is held all are alike."""

    def __init__(self, held: frozenset[Hold]) -> None:
        super().__init__()
        self.held, self.seen = held, set[Hold]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        kind = Hold.DROPOUT if "dropout" in name or "bernoulli" in name else Hold.RANDOM
        self.seen.add(kind)
        if kind not in self.held:
            return func(*args, **(kwargs or {}))
        if name == "native_dropout":
            return args[0] / max(1 - args[1], 1e-12), torch.ones_like(args[0], dtype=torch.bool)
        drawn = func(*args, **(kwargs or {}))
        if isinstance(drawn, Tensor) and "attention" not in name and "rrelu" not in name:
            _make_alike(drawn, name)
        return drawn


def _make_alike(drawn: Tensor, name: str) -> None:
    if name == "randperm":
        drawn.copy_(torch.arange(len(drawn)))
    elif "bernoulli" in name:
        drawn.fill_(1)
    else:
        drawn.fill_(0.5 if drawn.is_floating_point() else 0)


@contextmanager
def holding(held: frozenset[Hold], kept: Kept, module: L.LightningModule, ways: Ways) -> Iterator[Draws]:
    """Hold these still during the passes over a batch. `random` and `numpy.random` begin each micro-batch alike."""
    generators = random.getstate(), np.random.get_state()
    training_step = ways.training_step

    def step(*arguments: Any) -> Any:
        kept.put_back(weights=Hold.WEIGHTS in held, state=Hold.STATE in held, apart=False)
        if Hold.RANDOM in held:
            random.setstate(generators[0])
            np.random.set_state(generators[1])
        return training_step(*arguments)

    still = list(batch_norms(module).values()) if Hold.BATCH_NORM in held else []
    still += list(spectral_norms(module).values()) if Hold.SPECTRAL_NORM in held else []
    with ExitStack() as stack:
        for layer in still:
            stack.enter_context(_in_eval_mode(layer, next(module.parameters())))
        for layer in [m for m in module.modules() if isinstance(m, nn.RNNBase)] if Hold.DROPOUT in held else []:
            stack.callback(setattr, layer, "dropout", layer.dropout)  # on a GPU it is drawn out of sight
            layer.dropout = 0.0
        for owner in backward_hooks(module).values() if Hold.HOOK in held else []:
            stack.enter_context(_without_hook(owner))
        ways.training_step = step
        stack.callback(delattr, ways, "training_step")
        draws = stack.enter_context(Draws(held))
        yield draws
        if random.getstate() != generators[0] or not _equal(np.random.get_state(), generators[1]):
            draws.seen.add(Hold.RANDOM)


@contextmanager
def _in_eval_mode(layer: Any, like: Tensor) -> Iterator[None]:
    """BatchNorm without running means has none to go by: it is given a mean of 0 and a variance of 1."""
    given = isinstance(layer, _BatchNorm) and layer.running_mean is None
    layer.training = False
    if given:
        layer.running_mean, layer.running_var = (
            make(layer.num_features, dtype=like.dtype, device=like.device) for make in (torch.zeros, torch.ones)
        )
    try:
        yield
    finally:
        layer.training = True
        if given:
            layer.running_mean = layer.running_var = None


@contextmanager
def _without_hook(owner: Any) -> Iterator[None]:
    before = vars(owner).get(HOOK)
    vars(owner)[HOOK] = lambda *_: None
    try:
        yield
    finally:
        del vars(owner)[HOOK]
        if before is not None:
            vars(owner)[HOOK] = before


def _equal(state: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(state, other, strict=True))
