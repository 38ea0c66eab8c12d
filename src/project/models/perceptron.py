"""Linear layers, one or several."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def linear(num_inputs: int, num_outputs: int) -> nn.Module:
    """One linear layer: inputs (samples, ...) of `num_inputs` values each, outputs (samples, num_outputs)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(num_inputs, num_outputs))


def mlp(num_inputs: int, num_outputs: int, hidden: Sequence[int] = (128,), dropout: float = 0.0) -> nn.Module:
    """Linear layers with ReLU between them; dropout after each hidden one.

    Inputs of shape (samples, ...) with `num_inputs` values each, outputs (samples, num_outputs).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = [num_inputs, *hidden]
    for size, next_size in pairwise(sizes):
        layers += [nn.Linear(size, next_size), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_outputs))
