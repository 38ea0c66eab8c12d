import pytest
import torch
from torch import nn

from metronome.units import InputError
from project.models import networks


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
        # ResNet-18, as it is known: 1,000 classes and 10.
        (networks.resnet(3, 1000, normalize="batch"), (2, 3, 64, 64), (2, 1000), 11_689_512),
        (networks.resnet(3, 1000), (2, 3, 33, 70), (2, 1000), 11_689_512),
        (networks.resnet(3, 10), (1, 3, 224, 224), (1, 10), 11_181_642),
        # Stem, a block as wide as it, a block twice as wide with a shortcut, and the last layer; two numbers a
        # channel of each norm.
        (
            networks.resnet(1, 3, widths=(4, 8), blocks=(1, 1)),
            (5, 1, 9, 17),
            (5, 3),
            (49 * 4 + 8) + 2 * (9 * 4 * 4 + 8) + (9 * 4 * 8 + 16 + 9 * 8 * 8 + 16) + (4 * 8 + 16) + (8 * 3 + 3),
        ),
        # A quarter as wide.
        (
            networks.resnet(3, 7, widths=(16, 32, 64, 128)),
            (3, 3, 1, 1),
            (3, 7),
            (49 * 3 * 16 + 2 * 16)
            + 2 * (2 * 9 * 16 * 16 + 4 * 16)
            + sum((9 * a * b + 3 * 9 * b * b + a * b) + 10 * b for a, b in ((16, 32), (32, 64), (64, 128)))
            + (128 * 7 + 7),
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


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(224, [56, 56, 28, 28, 14, 14, 7, 7]), (32, [8, 8, 4, 4, 2, 2, 1, 1]), (65, [17, 17, 9, 9, 5, 5, 3, 3])],
)
def test_the_stages_of_a_resnet(size: int, sizes: list[int]) -> None:
    """The sizes of the images after each block: those of table 1 for 224, rounded up for others."""
    network, seen = networks.resnet(3, 10, widths=(8, 8, 16, 16)), []
    for layer in network.modules():
        if isinstance(layer, networks.Residual):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[2:]))
    network(torch.randn(1, 3, size, size))
    assert seen == [(side, side) for side in sizes]


def test_a_residual_block_by_hand() -> None:
    """With convolutions that pass their input on and norms that do nothing: relu(relu(x) + x), and through a
    shortcut that takes every other pixel and doubles it relu(relu(x) + 2 x) of those."""
    x = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]]]])
    for stride in (1, 2):
        block = networks.Residual(1, 1, stride, lambda _: nn.Identity())
        with torch.no_grad():
            for layer in block.body:
                if isinstance(layer, nn.Conv2d):
                    layer.weight.zero_()[0, 0, 1, 1] = 1
            if stride == 2:
                block.shortcut[0].weight.fill_(2)  # pyright: ignore
        expected = [[[[2.0, 0.0], [6.0, 0.0]]]] if stride == 1 else [[[[3.0]]]]
        assert block(x).tolist() == expected


@pytest.mark.parametrize(("normalize", "alone"), [("group", True), ("batch", False)])
def test_group_norm_looks_at_one_sample_at_a_time(normalize: str, alone: bool) -> None:
    """So how a batch is cut up does not matter to the outputs; to BatchNorm it does."""
    torch.manual_seed(0)
    network, x = networks.resnet(3, 10, widths=(8, 8, 16, 16), normalize=normalize).double(), torch.randn(6, 3, 64, 64)
    whole, parts = network(x.double()), torch.cat([network(part.double()) for part in x.split(2)])
    assert torch.allclose(whole, parts, rtol=0, atol=1e-12) == alone


def test_the_first_weights_of_a_resnet_keep_the_size_of_gradients() -> None:
    """Standard deviation sqrt(2 / (kernel pixels * outputs)): He et al. (2015)."""
    torch.manual_seed(0)
    for layer in networks.resnet(3, 10).modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)


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
        ({"widths": [8, 8, 8, "8"]}, "model.network.widths=[8, 8, 8, '8'] is not a list of whole numbers"),
        ({"widths": 64}, "model.network.widths=64 is not a list of whole numbers"),
    ],
)
def test_what_a_resnet_refuses(options: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        networks.resnet(3, 10, **options)
    assert words in str(error.value)
