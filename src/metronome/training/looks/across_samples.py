"""What of a module sees a micro-batch where it should see the batch, as far as the module itself shows it."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from metronome.training.step.hooks import is_written

HOOK = "on_after_backward"


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of BatchNorm that go by what they are given, by name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, _BatchNorm) and m.training}


def is_joined_over_devices(layer: nn.Module) -> bool:
    return isinstance(layer, SyncBatchNorm)


def spectral_norms(module: nn.Module) -> dict[str, nn.Module]:
    """What makes the steps of spectral norm's power iteration, by the name of its layer; of both of PyTorch's ways."""
    found: dict[str, nn.Module] = {}
    for name, part in module.named_modules():
        if type(part).__name__ == "_SpectralNorm" and part.training:
            found[name.split(".parametrizations.")[0]] = part
        elif part.training and any(isinstance(hook, SpectralNorm) for hook in part._forward_pre_hooks.values()):
            found[name] = part
    return found


def backward_hooks(module: L.LightningModule) -> dict[str, Any]:
    """Who is called after each backward pass, and may change gradients there, by name."""
    callbacks: list[Any] = module.trainer.callbacks  # pyright: ignore
    found = [owner for owner in callbacks if is_written(owner, HOOK, Callback)]
    found += [module] if is_written(module, HOOK, L.LightningModule) else []
    return {type(owner).__name__: owner for owner in found}
