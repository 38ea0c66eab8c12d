"""A module spread over the devices of a mesh: first along the tensor-parallel dimension, as its owner says, then each
block and each network in parts along the data-parallel one (PyTorch's `fully_shard`, FSDP2)."""

import functools
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from metronome.training.sharded.blocks import is_tied, networks_and_blocks, users_of_weights, weights_outside
from metronome.training.sharded.tensors import is_sharded
from metronome.units import InputError

_STEPS = ("training_step", "validation_step", "test_step", "predict_step", "forward")


def is_spread(module: nn.Module) -> bool:
    return any(is_sharded(weight) for weight in module.parameters())


@torch.no_grad()
def like_the_first(module: nn.Module, device: torch.device) -> None:
    """Give every process the first one's weights and buffers, as DistributedDataParallel does: each makes its own, and
    keeps a part of them that must fit the others'."""
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.is_meta:
            there = tensor.detach().to(device)
            distributed.broadcast(there, 0)
            tensor.data.copy_(there)


def parallelize(module: L.LightningModule, mesh: Any) -> None:
    """Have the module, or each of its networks that can, cut itself up along a mesh of one dimension.

    Raises:
        InputError: where none says how.
    """
    owners = [module] if hasattr(module, "parallelize") else [
        network for network, _ in networks_and_blocks(module, None) if hasattr(network, "parallelize")
    ]  # fmt: skip
    if not owners:
        raise InputError(
            f"trainer.strategy.tensor_parallel_size={mesh.size()} needs a network that says how it is cut up: a method "
            "parallelize(self, mesh), as conf/trainer/README.md shows; else use "
            "trainer.strategy.tensor_parallel_size=1"
        )
    # It warns of a weight that is cut along both dimensions and made whole: by two collectives, which is what there is.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    # And of outputs that are views, as those of all tensor-parallel layers are: changed in place they would be a risk.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for owner in owners:
        owner.parallelize(mesh)  # pyright: ignore


def spread(
    module: L.LightningModule,
    mesh: Any,
    *,
    shard_modules: Sequence[str] | None,
    activation_checkpointing: bool,
    reshard_after_forward: bool,
    precision: Precision,
) -> None:
    """Spread all weights of a module over a mesh of one dimension.

    Raises:
        InputError: for weights that cannot be; for `shard_modules` of which it has none.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    _check_weights(module)
    policy, networks = _policy(precision), networks_and_blocks(module, shard_modules)
    if activation_checkpointing and not any(blocks for _, blocks in networks):
        raise InputError(
            f"trainer.strategy.activation_checkpointing=true works block by block, and {type(module).__name__} has "
            "none; name their classes, as in trainer.strategy.shard_modules=[Block], or leave it out"
        )
    for _, blocks in networks:
        for block in blocks:
            if activation_checkpointing:
                compute_again(block)
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
    users = users_of_weights(module)
    alone = [network for network, _ in networks if not is_tied(network, users)]
    for network in alone:
        # The last to be used and the first to be needed again: PyTorch keeps it between the passes.
        fully_shard(
            network, mesh=mesh, mp_policy=policy, reshard_after_forward=None if reshard_after_forward else False
        )
    if weights_outside(module, alone):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        for name in _STEPS:
            register_fsdp_forward_method(module, name)


def compute_again(block: nn.Module) -> None:
    """Forget what a block has worked out in its forward pass, and work it out again in the backward one: the same
    numbers, dropout's included."""
    forward: Any = block.forward

    @functools.wraps(forward)
    def forgetful(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    block.forward = forgetful


def roots_of(module: nn.Module) -> list[Any]:
    """The outermost parts that PyTorch has spread."""
    from torch.distributed.fsdp import FSDPModule

    found: list[Any] = []

    def look(part: nn.Module) -> None:
        if isinstance(part, FSDPModule):
            found.append(part)
        else:
            for child in part.children():
                look(child)

    look(module)
    return found


def _policy(precision: Precision) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if isinstance(precision, MixedPrecision):  # autocast casts the inputs of each operation itself
        return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    if isinstance(precision, HalfPrecision):
        return MixedPrecisionPolicy(reduce_dtype=torch.float32)
    return MixedPrecisionPolicy(cast_forward_inputs=False)


def _check_weights(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        if weight.ndim == 0:
            raise InputError(
                f"{name} is a single number without a dimension, which cannot be spread over devices; make it a tensor "
                "of shape (1,)"
            )


def outputs_of(content: Any) -> list[Tensor]:
    """The tensors with a graph in what a network has returned."""
    if isinstance(content, Tensor):
        return [content] if content.requires_grad else []
    held = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [tensor for part in held for tensor in outputs_of(part)]
