"""Residual networks, ResNet-18 among them."""

from collections.abc import Callable, Sequence
from math import gcd

import torch
from torch import Tensor, nn

from metronome.units import InputError

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda width: nn.GroupNorm(gcd(8, width), width),
    "batch": nn.BatchNorm2d,
}


def resnet(
    num_channels: int,
    num_outputs: int,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (2, 2, 2, 2),
    normalize: str = "group",
) -> nn.Module:
    """A residual network of basic blocks, by default ResNet-18: He et al. (2016), arXiv 1512.03385, table 1.

    Inputs of shape (samples, num_channels, height, width), outputs (samples, num_outputs). The stem makes images four
    times smaller, and each stage after the first halves them.

    Args:
        num_channels: channels of the images.
        num_outputs: values per sample.
        widths: channels of each stage.
        blocks: residual blocks in each stage, of two convolutions each.
        normalize: `group` for GroupNorm, as in `cnn`, or `batch` for BatchNorm, as in the paper. BatchNorm looks across
            the samples of one micro-batch, so that how a batch is cut up matters to it.

    Raises:
        InputError: for another kind of normalization, or stages that have not one width and one number of blocks each.
    """
    if normalize not in _NORMS:
        raise InputError(f"model.network.normalize={normalize} is not known; use normalize=group or normalize=batch")
    for name, numbers in (("widths", widths), ("blocks", blocks)):
        if not isinstance(numbers, list | tuple) or not numbers or any(type(n) is not int or n < 1 for n in numbers):
            raise InputError(f"model.network.{name}={numbers!r} is not a list of whole numbers from 1 up, one a stage")
    if len(widths) != len(blocks):
        raise InputError(
            f"model.network.widths={list(widths)} and model.network.blocks={list(blocks)} are of {len(widths)} and "
            f"{len(blocks)} stages; give one number a stage in each"
        )
    norm, width = _NORMS[normalize], widths[0]
    stem = [nn.Conv2d(num_channels, width, 7, stride=2, padding=3, bias=False), norm(width), nn.ReLU(inplace=True)]
    layers: list[nn.Module] = [*stem, nn.MaxPool2d(3, stride=2, padding=1)]
    for stage, (next_width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            layers.append(Residual(width, next_width, 2 if stage and not block else 1, norm))
            width = next_width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_outputs))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):  # He et al. (2015), arXiv 1502.01852
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return network


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is the identity wherever the shape stays the same.

    Inputs of shape (samples, num_channels, height, width), outputs (samples, width, height / stride, width / stride),
    rounded up.
    """

    def __init__(self, num_channels: int, width: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, width, 3, stride=stride, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or num_channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(num_channels, width, 1, stride=stride, bias=False), norm(width))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu_(self.body(inputs) + self.shortcut(inputs))
