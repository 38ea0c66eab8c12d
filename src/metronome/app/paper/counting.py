"""A step of the real module, counted: what it keeps, and how much it computes.

Made of tensors that have a shape and no data (PyTorch's fake tensors), so that it takes neither memory nor time,
whatever the size of the network; a module that looks at its numbers as it goes is counted on real ones, in few samples.
"""

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from metronome.app.config.build import build_data, build_model, build_trainer, plan_training
from metronome.app.config.rates import unscaled
from metronome.app.paper.step import Pass, Step
from metronome.app.paper.tracker import bytes_of
from metronome.data import DataModule
from metronome.models.fused import fuse, is_better_fused
from metronome.models.supervised import Supervised
from metronome.training.batches.cut import count_samples
from metronome.training.batches.seeds import generators_as_before
from metronome.units import InputError
from metronome.units.paper.memory import Weight

_LOOKED_AT = 256  # samples: where they differ in length, all of them are padded to the longest
_FEW = 16  # samples of a micro-batch of real numbers, at the most
_TYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}


@dataclass
class Counted:
    """A module and its optimizer.

    Attributes:
        weights, buffers: what is kept; bytes of the latter.
        units: parts of the network that FSDP2 gathers one by one.
        optimizer: the names of its classes.
        flops: of both passes of one sample.
        sample_bytes: of one sample of a batch.
        tokens: of one sample, as the module counts them; None where it counts samples.
        is_fake: whether it was counted without data.
        looked_at: samples of the batch that was looked at.
        why: in words, why not without data.
    """

    weights: list[Weight]
    buffers: int
    units: int
    optimizer: str
    flops: float
    sample_bytes: float
    tokens: float | None
    is_fake: bool
    looked_at: int
    why: str
    _make: Callable[[int, bool], Pass] = field(repr=False)
    _known: dict[tuple[int, bool], Pass] = field(default_factory=dict, repr=False)

    def passes(self, samples: int, cut: bool) -> Pass:
        """Of a micro-batch of so many samples; `cut`: with the gradients of one before it."""
        key = (samples, cut)
        if key not in self._known:
            if self.is_fake or samples <= _FEW:
                self._known[key] = self._make(samples, cut)
            else:
                self._known[key] = _along(self.passes(_FEW // 2, cut), self.passes(_FEW, cut), samples)
        return self._known[key]


def count(settings: dict[str, Any], micro_batch: int) -> Counted:
    """Count a training.

    Args:
        settings: the configuration, resolved and with groups given; it stays as it is.
        micro_batch: samples in about the largest one.

    Raises:
        InputError: for a training of which no step can be made so.
    """
    settings = deepcopy(settings) | {"callbacks": {}, "logger": {}}
    precision = str(settings["trainer"].get("precision") or "32-true")
    settings["trainer"] |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None}
    settings["trainer"] |= {"accumulate_grad_batches": 1, "compile": False}
    settings["model"] = unscaled(settings["model"])
    with generators_as_before(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that nobody makes
        trainer = build_trainer(settings, [], on_this_machine=False)
        batch = _batch(settings, trainer, micro_batch)
        sizes: list[int] = []  # of the weights, once the module is made
        try:
            return _counted(settings, trainer, batch, precision, FakeTensorMode(allow_non_fake_inputs=True), "", sizes)
        except InputError:
            raise
        except Exception as error:  # whatever a module does that needs numbers
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            _check_room(why[:200], sum(sizes))
            return _counted(settings, trainer, batch, precision, None, why[:200], sizes)


def _batch(settings: dict[str, Any], trainer: Any, micro_batch: int) -> Any:
    data = build_data(settings)
    if isinstance(data, DataModule):
        data.batch_growth, data.num_workers = None, 0
        data.batch_size = min(max(micro_batch, _LOOKED_AT), data.num_samples)
    plan_training(trainer, data)
    loaders = data.train_dataloader()
    try:
        return next(iter(loaders))
    except (TypeError, StopIteration):
        raise InputError(f"{type(data).__name__} gives no batch to look at on paper") from None


def _counted(
    settings: dict[str, Any],
    trainer: Any,
    batch: Any,
    precision: str,
    mode: FakeTensorMode | None,
    why: str,
    sizes: list[int],
) -> Counted:
    with mode or nullcontext():
        module = build_model(settings, trainer)
    sizes.append(bytes_of(list(module.parameters())))
    # A step begins with the whole share where the device is, and as hooks make it.
    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
        for owner in (module, trainer.datamodule):
            batch = getattr(owner, hook)(batch, 0)
    dtype, looked_at = _TYPES.get(precision), count_samples(batch)
    if dtype is not None:
        batch = tree_map(
            lambda part: part.to(dtype) if isinstance(part, Tensor) and part.is_floating_point() else part, batch
        )
    sample_bytes = bytes_of(batch) / looked_at
    mixed = torch.bfloat16 if precision.endswith("-mixed") else None
    own = getattr(module, "loss_weight", None)
    mean_over = None if own is None else own(batch)
    with mode or nullcontext():
        _convert(module, dtype)
        optimizers = _prepared(module, trainer)
        _work_as_on_a_gpu(module, optimizers)
        if mode is not None:
            batch = tree_map(lambda part: mode.from_tensor(part) if isinstance(part, Tensor) else part, batch)
        step = Step(module, optimizers, mixed)
        flops = step.first(_sized(batch, looked_at, min(looked_at, _FEW))) / min(looked_at, _FEW)

    def make(samples: int, cut: bool) -> Pass:
        with mode or nullcontext(), generators_as_before(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return step.counted(_sized(batch, looked_at, samples), cut)

    return Counted(
        weights=step.weights(),
        buffers=bytes_of(list(module.buffers())),
        units=max(1, len(step.units)),
        optimizer=" and ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in optimizers)),
        flops=flops,
        sample_bytes=sample_bytes,
        tokens=None if mean_over is None or float(mean_over) == looked_at else float(mean_over) / looked_at,
        is_fake=mode is not None,
        looked_at=looked_at,
        why=why,
        _make=make,
    )


def _prepared(module: L.LightningModule, trainer: Any) -> list[Optimizer]:
    """Optimizers of a module that believes that it trains."""
    if not module.automatic_optimization:
        raise InputError(
            f"{type(module).__name__} makes its updates itself (automatic_optimization=False), and what it takes for "
            "them is not counted on paper; measure=true without paper measures it"
        )
    module.trainer = trainer
    nothing: Any = lambda *_, **__: None  # noqa: E731  it logs where nobody trains
    object.__setattr__(module, "log", nothing)
    object.__setattr__(module, "log_dict", nothing)
    module.train()
    module.configure_model()
    made: Any = module.configure_optimizers()
    made = made[0] if isinstance(made, tuple) and made and isinstance(made[0], list) else made
    parts = made if isinstance(made, list | tuple) else [made]
    found = [part["optimizer"] if isinstance(part, dict) else part for part in parts if part is not None]
    if not found or not all(isinstance(part, Optimizer) for part in found):
        raise InputError(f"{type(module).__name__} has no optimizer, so there is nothing to train on paper")
    return found


def _work_as_on_a_gpu(module: L.LightningModule, optimizers: list[Optimizer]) -> None:
    """In one kernel where a model of ours would have it so there, else tensors together, which is PyTorch's default
    there and takes more memory than one after the other."""
    for optimizer in optimizers:
        groups = optimizer.param_groups
        types = {parameter.dtype for group in groups for parameter in group["params"]}
        better = all(is_better_fused(type(optimizer), "cuda", group) for group in groups)
        if isinstance(module, Supervised) and better and types <= {torch.float32, torch.float64}:
            fuse(optimizer)
            continue
        for group in groups:
            if group.get("foreach", False) is None and group.get("fused") is None:
                group["foreach"] = True


def _convert(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Put weights and buffers of floats into a type; `Module.to` cannot where they have no data."""
    made: dict[int, Any] = {}
    for part in module.modules() if dtype is not None else ():
        for own in (part._parameters, part._buffers):
            for name, tensor in own.items():
                if tensor is None or not tensor.is_floating_point():
                    continue
                if id(tensor) not in made:
                    other = tensor.detach().to(dtype)
                    is_weight = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if is_weight else other
                own[name] = made[id(tensor)]


def _check_room(why: str, weights: int) -> None:
    """Before a module is made with its data: weights, gradients and states of Adam may take four times its weights."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4e9
    if 4 * weights > free:
        raise InputError(
            f"the module cannot be counted without data ({why}), and {weights / 1e9:.3g} GB of weights are too many "
            "to count with them here; make model.network smaller"
        )


def _sized(batch: Any, samples: int, wanted: int) -> Any:
    """A batch of another size, of the samples of this one again and again."""
    if wanted == samples:
        return batch
    index = torch.arange(wanted) % samples

    def sized(part: Any) -> Any:
        is_rows = isinstance(part, Tensor) and part.ndim > 0 and len(part) == samples
        return part.index_select(0, index) if is_rows else part

    return tree_map(sized, batch)


def _along(low: Pass, high: Pass, samples: int) -> Pass:
    """On the line through two sizes that were counted."""

    def at(a: int, b: int) -> int:
        return round(a + (b - a) * (samples - _FEW // 2) / (_FEW - _FEW // 2))

    return Pass(
        at(low.with_gradients, high.with_gradients),
        at(low.without, high.without),
        max(low.update, high.update),
        tuple(at(a, b) for a, b in zip(low.outputs, high.outputs, strict=True)),
    )
