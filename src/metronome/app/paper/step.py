"""A step of a module, made to be counted: passes over micro-batches, and the update."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from metronome.app.paper.tracker import LiveBytes, bytes_of
from metronome.units import InputError
from metronome.units.paper.memory import Kept, Weight

# PyTorch counts those of GPUs only.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(gradient, query, key, value)
    ),
}


@dataclass(frozen=True)
class Pass:
    """What a micro-batch of some size takes, in bytes beside weights and the optimizer's state.

    Attributes:
        with_gradients: the most at one time in both passes, gradients with it.
        without: the same without them.
        update: the most that the optimizer takes for its work.
        outputs: of each unit, that it hands on.
    """

    with_gradients: int
    without: int
    update: int
    outputs: tuple[int, ...]


class Step:
    """Makes steps of a module, and counts their bytes."""

    def __init__(self, module: L.LightningModule, optimizers: list[Optimizer], mixed: torch.dtype | None) -> None:
        self.module, self.optimizers, self.mixed = module, optimizers, mixed
        self.units = units_of(module)
        self.live = LiveBytes()
        self.live.watch_gradients(module)

    def first(self, batch: Any) -> int:
        """A first step, after which the optimizer has all that it keeps. Returns the operations of its passes."""
        with self.live:
            with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as flops:
                self._pass(batch)
            self._update()
        return flops.get_total_flops()

    def counted(self, batch: Any, cut: bool) -> Pass:
        live = self.live
        with live, self._outputs() as outputs:
            before = live.now
            live.begin()
            self._pass(batch)
            if cut:
                outputs.clear()
                self._pass(batch)
            whole, without = live.peak - before, live.peak_but_gradients - before
            held = live.now
            live.begin()
            self._update()
            return Pass(whole, without, live.peak - held, tuple(outputs))

    def _pass(self, batch: Any) -> None:
        autocast = nullcontext() if self.mixed is None else torch.autocast("cpu", dtype=self.mixed)
        with autocast:
            output: Any = self.module.training_step(batch, 0)
        loss = output["loss"] if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            raise InputError(f"{type(self.module).__name__}.training_step gives no loss to go back from")
        loss.backward()

    def _update(self) -> None:
        for optimizer in self.optimizers:
            closure: Any = lambda: torch.zeros(())  # noqa: E731  a loss, for those that look at one
            optimizer.step(closure)
            optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def _outputs(self) -> Iterator[list[int]]:
        found: list[int] = []
        hooks = [unit.register_forward_hook(lambda _, __, made: found.append(bytes_of(made))) for unit in self.units]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    def weights(self) -> list[Weight]:
        unit_of = {id(parameter): number for number, unit in enumerate(self.units) for parameter in unit.parameters()}
        states = {id(p): state for optimizer in self.optimizers for p, state in optimizer.state.items()}
        trained = {id(p) for o in self.optimizers for group in o.param_groups for p in group["params"]}
        return [
            Weight(
                _kept(parameter),
                parameter.requires_grad and id(parameter) in trained,
                tuple(_kept(part) for part in tree_leaves(states.get(id(parameter), {})) if isinstance(part, Tensor)),
                unit_of.get(id(parameter)),
            )
            for parameter in self.module.parameters()
        ]


def units_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a network: what stands in its lists of modules, of which each has weights."""
    for child in module.children():
        blocks = [part for part in child.children() if any(True for _ in part.parameters())]
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(blocks) > 1:
            return blocks
    for child in module.children():
        if found := units_of(child):
            return found
    return []


def _kept(tensor: Tensor) -> Kept:
    return Kept(tuple(tensor.shape), tensor.element_size())
