import pytest
import torch
from torch import nn

from metronome.models import networks


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "inputs", "outputs", "count"),
    [
        (networks.linear(64, 10), (5, 64), (5, 10), 64 * 10 + 10),
        (networks.linear(64, 1), (5, 1, 8, 8), (5, 1), 64 + 1),
        (networks.mlp(64, 10), (5, 1, 8, 8), (5, 10), (64 * 128 + 128) + (128 * 10 + 10)),
        (networks.mlp(3, 2, hidden=(7, 5)), (4, 3), (4, 2), (3 * 7 + 7) + (7 * 5 + 5) + (5 * 2 + 2)),
        (networks.mlp(3, 2, hidden=()), (4, 3), (4, 2), 3 * 2 + 2),
        (networks.mlp(3, 2, hidden=(7,), dropout=0.5), (4, 3), (4, 2), (3 * 7 + 7) + (7 * 2 + 2)),
        # 3x3 kernels without bias, and two numbers a channel of each GroupNorm.
        (
            networks.cnn(1, 10),
            (5, 1, 8, 8),
            (5, 10),
            9 * (1 * 32 + 32 * 64) + 2 * (32 + 64) + (64 * 10 + 10),
        ),
        # With a bias in place of GroupNorm.
        (
            networks.cnn(3, 2, channels=(4, 6, 8), normalize=False),
            (5, 3, 17, 9),
            (5, 2),
            9 * (3 * 4 + 4 * 6 + 6 * 8) + (4 + 6 + 8) + (8 * 2 + 2),
        ),
    ],
)
def test_shapes_and_parameters(network: nn.Module, inputs: tuple, outputs: tuple, count: int) -> None:
    assert network(torch.randn(inputs)).shape == outputs
    assert parameters(network) == count


@pytest.mark.parametrize(("normalize", "norms"), [(True, 2), (False, 0)])
def test_normalize(normalize: bool, norms: int) -> None:
    layers = list(networks.cnn(1, 10, normalize=normalize))  # pyright: ignore
    assert sum(isinstance(layer, nn.GroupNorm) for layer in layers) == norms
    assert all((layer.bias is None) == normalize for layer in layers if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_dropout_after_each_hidden_layer(dropout: float) -> None:
    layers = [
        layer.p for layer in networks.mlp(3, 2, hidden=(7, 5), dropout=dropout).modules() if type(layer) is nn.Dropout
    ]
    assert layers == ([dropout] * 2 if dropout else [])


def test_an_mlp_by_hand() -> None:
    network = networks.mlp(2, 1, hidden=(2,))
    values = {
        "1.weight": [[1.0, 2.0], [-1.0, 0.0]], "1.bias": [0.5, 0.0], "3.weight": [[2.0, 3.0]], "3.bias": [-1.0],
    }  # fmt: skip
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    # (1, 1): hidden 3.5 and relu(-1) = 0, so 2 * 3.5 - 1. (-2, 1): 0.5 and 2, so 1 + 6 - 1.
    assert network(torch.tensor([[1.0, 1.0], [-2.0, 1.0]])).tolist() == [[6.0], [6.0]]
