"""Flags that trade exactness for speed: what each changes of the numbers, and how it is put to work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metronome.training.networks import networks_of
from metronome.units import InputError


@dataclass(frozen=True)
class Speed:
    """None of these changes the names in a checkpoint, so that one may be gone on with, or tested, with others.

    Attributes:
        compile: compile each network of the module with `torch.compile`, in place: true, or the name of a backend. It
            makes other kernels: the numbers are the same to rounding only, also after a resume; and it takes its time.
        channels_last: lay the weights of 2-d convolutions out with their channels last, which convolutions on images
            follow: the same to rounding.
        allow_tf32: whether a GPU may round the factors of float32 products to 10 bits of mantissa (3 decimal digits, of
            7). None: as PyTorch has it, which is false for matrices and true for convolutions.

    Raises:
        InputError: for a value that is not allowed.
    """

    compile: bool | str = False
    channels_last: bool = False
    allow_tf32: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.compile, bool | str):
            raise InputError(f"trainer.compile={self.compile!r} is neither true nor false, nor the name of a backend")
        if not isinstance(self.channels_last, bool):
            raise InputError(f"trainer.channels_last={self.channels_last!r} is neither true nor false")
        if self.allow_tf32 is not None and not isinstance(self.allow_tf32, bool):
            raise InputError(f"trainer.allow_tf32={self.allow_tf32!r} is neither true, false nor null")

    def lay_out(self, module: nn.Module) -> None:
        """Lay out the weights: before a strategy makes buffers like them."""
        if self.channels_last:
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not nn.parameter.is_lazy(layer.weight):
                    layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    @contextmanager
    def at_work(self, trainer: L.Trainer) -> Iterator[None]:
        """While a training or evaluation runs, whose module, optimizers and states are in place.

        Raises:
            InputError: if there is nothing to compile, or nothing to compile it with.
        """
        self.lay_out(trainer.lightning_module)  # what `configure_model` has made
        if self.compile:
            _compile(trainer.lightning_module, self._backend(trainer.strategy.root_device))
        for optimizer in trainer.optimizers:
            _lay_out_states(optimizer)
        with nullcontext() if self.allow_tf32 is None else tf32(self.allow_tf32):
            yield

    def _backend(self, device: torch.device) -> str:
        name = self.compile if isinstance(self.compile, str) else "inductor"
        if name not in (known := torch.compiler.list_backends(exclude_tags=())):
            raise InputError(f"trainer.compile={name} is no backend of torch.compile; there are: {', '.join(known)}")
        if name == "inductor" and (missing := _missing_compiler(device)):
            raise InputError(f"trainer.compile={self.compile} needs {missing}, which is not there; use false")
        return name


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """While it lasts, a GPU may, or may not, round the factors of float32 products and convolutions."""
    backends: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def _missing_compiler(device: torch.device) -> str | None:
    """What torch.compile would need on this device and does not find."""
    if device.type == "cuda":
        return None if find_spec("triton") else "the package triton"
    from torch._inductor.cpp_builder import get_cpp_compiler  # takes a second, which others need not wait for

    try:
        get_cpp_compiler()
    except Exception as error:
        if type(error).__name__ != "InvalidCxxCompiler":
            raise
        return "a C++ compiler"
    return None


def _compile(module: L.LightningModule, backend: str) -> None:
    networks = list(networks_of(module.children()))
    if not networks:
        raise InputError(
            f"trainer.compile compiles the networks that a module is made of, and {type(module).__name__} has none "
            "with weights; use trainer.compile=false"
        )
    if all(network._compiled_call_impl is None for network in networks):
        # What was compiled for networks of earlier trainings counts against a limit that networks of the same class
        # share, past which PyTorch compiles no more.
        torch.compiler.reset()
    for network in networks:
        if network._compiled_call_impl is None:  # it may have been compiled by its owner
            network._compiled_call_impl = _compiled(network, backend)


def _compiled(network: nn.Module, backend: str) -> Any:
    """A call of it, compiled. Of a network whose class is one of PyTorch's own, such as `nn.Sequential`, the method
    `compile` compiles nothing but parts of other classes, one by one (torch 2.13): of a function of ours, all of it."""

    def call(*arguments: Any, **named: Any) -> Any:
        return network._call_impl(*arguments, **named)

    return torch.compile(call, backend=backend)


def _lay_out_states(optimizer: Optimizer) -> None:
    """As their parameters are: a checkpoint may have them in another layout, which a fused kernel takes for theirs."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
