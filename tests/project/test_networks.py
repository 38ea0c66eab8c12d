"""Networks: what shape comes out, how many parameters there are, and what a known input gives."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from metronome.units import InputError
from project.models import cnn, linear, mlp, resnet
from project.models.residual import Residual


@pytest.mark.parametrize(
    ("network", "inputs", "outputs", "count"),
    [
        (linear(64, 1), (5, 1, 8, 8), (5, 1), 64 + 1),
        (mlp(64, 10), (5, 1, 8, 8), (5, 10), (64 * 128 + 128) + (128 * 10 + 10)),
        (mlp(3, 2, hidden=(7, 5), dropout=0.5), (4, 3), (4, 2), (3 * 7 + 7) + (7 * 5 + 5) + (5 * 2 + 2)),
        (mlp(3, 2, hidden=()), (4, 3), (4, 2), 3 * 2 + 2),
        # 3x3 kernels without bias, and two numbers a channel of each GroupNorm.
        (cnn(1, 10), (5, 1, 8, 8), (5, 10), 9 * (1 * 32 + 32 * 64) + 2 * (32 + 64) + (64 * 10 + 10)),
        # With a bias in place of GroupNorm.
        (
            cnn(3, 2, channels=(4, 6, 8), normalize=False),
            (5, 3, 17, 9),
            (5, 2),
            9 * (3 * 4 + 4 * 6 + 6 * 8) + (4 + 6 + 8) + (8 * 2 + 2),
        ),
        # ResNet-18, as it is known: 1,000 classes and 10.
        (resnet(3, 1000, normalize="batch"), (2, 3, 64, 64), (2, 1000), 11_689_512),
        (resnet(3, 1000), (2, 3, 33, 70), (2, 1000), 11_689_512),
        (resnet(3, 10), (1, 3, 224, 224), (1, 10), 11_181_642),
        # Stem, a block as wide as it, a block twice as wide with a shortcut, and the last layer.
        (
            resnet(1, 3, widths=(4, 8), blocks=(1, 1)),
            (5, 1, 9, 17),
            (5, 3),
            (49 * 4 + 8) + 2 * (9 * 4 * 4 + 8) + (9 * 4 * 8 + 16 + 9 * 8 * 8 + 16) + (4 * 8 + 16) + (8 * 3 + 3),
        ),
    ],
)
def test_shapes_and_parameters(network: nn.Module, inputs: tuple, outputs: tuple, count: int) -> None:
    assert network(torch.randn(inputs)).shape == outputs
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_the_stages_of_a_resnet() -> None:
    """The size of the images after each block: table 1 of the paper."""
    network, seen = resnet(3, 10, widths=(8, 8, 16, 16)), []
    for layer in network.modules():
        if isinstance(layer, Residual):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[2]))
    network(torch.randn(1, 3, 224, 224))
    assert seen == [56, 56, 28, 28, 14, 14, 7, 7]


def test_a_residual_block_by_hand() -> None:
    """With convolutions that pass their input on and norms that do nothing: relu(relu(x) + x), and through a
    shortcut that takes every other pixel and doubles it relu(relu(x) + 2 x) of those."""
    x = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]])
    for stride in (1, 2):
        block = Residual(1, 1, stride, lambda _: nn.Identity())
        with torch.no_grad():
            for layer in block.body:
                if isinstance(layer, nn.Conv2d):
                    layer.weight.zero_()[0, 0, 1, 1] = 1
            if stride == 2:
                block.shortcut[0].weight.fill_(2)  # pyright: ignore
        expected = [[[[2.0, 0.0], [6.0, 0.0]]]] if stride == 1 else [[[[3.0]]]]
        assert block(x).tolist() == expected


@pytest.mark.parametrize(
    ("network", "alone"),
    [
        (lambda: cnn(3, 10), True),
        (lambda: resnet(3, 10, widths=(8, 8, 16, 16)), True),
        (lambda: resnet(3, 10, widths=(8, 8, 16, 16), normalize="batch"), False),
    ],
    ids=["cnn", "resnet", "BatchNorm"],
)
def test_group_norm_looks_at_one_sample_at_a_time(network: Callable[[], nn.Module], alone: bool) -> None:
    """So how a batch is cut up does not matter to the outputs; to BatchNorm it does."""
    torch.manual_seed(0)
    net, x = network().double(), torch.randn(6, 3, 64, 64).double()
    whole, parts = net(x), torch.cat([net(part) for part in x.split(2)])
    assert torch.allclose(whole, parts, rtol=0, atol=1e-12) == alone


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"normalize": "layer"}, "model.network.normalize=layer is not known; use normalize=group or normalize=batch"),
        (
            {"widths": [16, 32]},
            "model.network.widths=[16, 32] and model.network.blocks=[2, 2, 2, 2] are of 2 and 4 stages",
        ),
        ({"widths": [], "blocks": []}, "model.network.widths=[] is not a list of whole numbers from 1 up, one a stage"),
        ({"blocks": [2, 2, 2, 0]}, "model.network.blocks=[2, 2, 2, 0] is not a list of whole numbers from 1 up"),
        ({"widths": 64}, "model.network.widths=64 is not a list of whole numbers"),
    ],
)
def test_what_a_resnet_refuses(options: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        resnet(3, 10, **options)
    assert words in str(error.value)
