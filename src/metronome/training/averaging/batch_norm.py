"""The means and variances of BatchNorm, made anew for weights that were never trained with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metronome.training.batches.beside import epoch_beside, generators_of
from metronome.training.batches.seeds import remember_generators
from metronome.units import InputError

_TOO_FEW = "Expected more than 1 value per channel when training"  # what torch says


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The layers that keep running means."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def renew(trainer: Any, module: L.LightningModule) -> None:
    """Give BatchNorm the mean, over the micro-batches of the first epoch, of their means and variances.

    One pass forward over the training data, without dropout. `module(inputs)` is called, where a batch is `inputs` or
    (inputs, ...), as by `torch.optim.swa_utils.update_bn`. Each device reads all of the data where they are ours; else
    the first one's numbers are everybody's. Random numbers, the order of the samples and logged values stay.

    Raises:
        InputError: where the module cannot be called so.
    """
    layers = batch_norms(module)
    if not layers:
        return
    device = trainer.strategy.root_device
    put_generators_back = remember_generators(device)
    own = [(generator, generator.get_state()) for generator in generators_of(trainer.train_dataloader)]
    step = trainer.fit_loop.epoch_loop.step
    to_device, shares = step.ways.to_device, step.shares
    with _only_these_train(module, layers):
        for micro_batch in _micro_batches(trainer, shares):
            micro_batch = to_device(micro_batch)
            try:
                with trainer.precision_plugin.forward_context():
                    module(micro_batch[0] if isinstance(micro_batch, list | tuple) else micro_batch)
            except ValueError as error:
                if _TOO_FEW not in str(error):  # a last batch of one sample, which has no variance
                    raise
            except (TypeError, NotImplementedError, AttributeError) as error:
                raise InputError(
                    f"BatchNorm's means are made anew by {type(module).__name__}(inputs), which fails ({error}); say "
                    "swa.renew_batch_norm=false to average them like the weights"
                ) from error
    if trainer.world_size > 1:
        for tensor in _running(layers):
            distributed.broadcast(tensor, 0)
    put_generators_back()
    for generator, state in own:
        generator.set_state(state)


def _micro_batches(trainer: Any, shares: Any) -> Iterator[Any]:
    """No larger than those of the training, for memory; of two samples at least."""
    for batch in epoch_beside(trainer, 0, whole=True):
        samples = shares.count(batch)
        parts = max(1, min(trainer.accumulate * trainer.world_size, samples // 2))
        yield from shares.pieces(batch, samples, parts)[0] if parts > 1 else (batch,)


def _running(layers: list[_BatchNorm]) -> list[Tensor]:
    return [t for layer in layers for t in (layer.running_mean, layer.running_var) if t is not None]


@contextmanager
def _only_these_train(module: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """The layers begin anew, and weigh each batch the same; all else is as in an evaluation."""
    modes = [(each, each.training) for each in module.modules()]
    momenta = [(layer, layer.momentum) for layer in layers]
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.training = True
    try:
        yield
    finally:
        for layer, momentum in momenta:
            layer.momentum = momentum
        for each, mode in modes:
            each.training = mode
