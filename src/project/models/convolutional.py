"""A small convolutional network."""

from collections.abc import Sequence
from math import gcd

from torch import nn


def cnn(
    num_channels: int,
    num_outputs: int,
    channels: Sequence[int] = (32, 64),
    normalize: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """A 3x3 convolution for each entry of `channels`, halving the image after it; then the mean over the image.

    Inputs of shape (samples, num_channels, height, width), outputs (samples, num_outputs).

    Args:
        num_channels: channels of the images.
        num_outputs: values per sample.
        channels: width of each stage.
        normalize: GroupNorm (Wu & He 2018, arXiv 1803.08494), 8 groups where the width allows, after each convolution.
            Unlike BatchNorm it looks at one sample at a time, so how a batch is cut up does not matter to it.
        dropout: before the last layer.
    """
    layers: list[nn.Module] = []
    for width in channels:
        layers.append(nn.Conv2d(num_channels, width, 3, padding=1, bias=not normalize))
        if normalize:
            layers.append(nn.GroupNorm(gcd(8, width), width))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        num_channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(num_channels, num_outputs)]
    return nn.Sequential(*layers, *head)
