"""What is trained: data, a network, a loss and an optimizer, for every way to train them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Task:
    """A training.

    Attributes:
        batch_size: samples in a step.
        data: two tensors with a row for each sample, or a Dataset of such pairs; made once.
        network: makes it, of random weights.
        loss: of the network, inputs and targets: the mean over the samples.
        optimizer: of its parameters.
        part: of the steps that are asked for, this part is measured: fewer of a step that takes long.
        is_cut: whether it is measured cut into micro-batches too.
    """

    batch_size: int
    data: Callable[[], Any]
    network: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    part: float = 1.0
    is_cut: bool = True

    def start(self) -> nn.Module:
        """The network with the same first weights each time."""
        torch.manual_seed(0)
        return self.network()

    def steps(self, asked: int) -> int:
        return max(1, round(asked * self.part))


# ---- data, made of random numbers ---------------------------------------------------------------------------


@cache
def line(num_samples: int) -> tuple[Tensor, Tensor]:
    """10 numbers, and a weighted sum of them with noise."""
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(num_samples, 10, generator=generator), torch.randn(10, 1, generator=generator)
    return x, x @ weights + 0.1 * torch.randn(num_samples, 1, generator=generator)


@cache
def labelled(num_samples: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Numbers of any shape, and one of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_samples, *shape, generator=generator)
    return x, torch.randint(10, (num_samples,), generator=generator)


@cache
def images_of_bytes(num_samples: int, *shape: int) -> tuple[Tensor, Tensor]:
    """uint8 of shape (samples, *shape), and one of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (num_samples, *shape), generator=generator, dtype=torch.uint8)
    return x, torch.randint(10, (num_samples,), generator=generator)


class Augmented(Dataset):
    """Images of 3x32x32 bytes, each normalized, mirrored by chance, and cut out anywhere of a larger frame."""

    def __init__(self, num_samples: int) -> None:
        self.images, self.labels = images_of_bytes(num_samples, 3, 32, 32)
        self.mean, self.deviation = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index].float().div_(255).sub_(self.mean).div_(self.deviation)
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        top, left = torch.randint(9, (2,)).tolist()
        return functional.pad(image, (4, 4, 4, 4))[:, top : top + 32, left : left + 32], self.labels[index]


# ---- networks and losses ------------------------------------------------------------------------------------


def perceptron() -> nn.Module:
    """784-128-10, of shape (samples, 784)."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def normalized_perceptron() -> nn.Module:
    """784-64-128-64-10 with BatchNorm, of shape (samples, 28, 28)."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in ((784, 64), (64, 128), (128, 64)):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def tower(layers: int, width: int, bias: bool) -> nn.Module:
    """So many linear layers, one on the other."""
    return nn.Sequential(*(nn.Linear(width, width, bias=bias) for _ in range(layers)))


class Block(nn.Module):
    """Two 3x3 convolutions around which the input goes by: K. He et al. (2016), arXiv 1512.03385."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.around = nn.Identity()
        if before != after:
            self.around = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.way(x) + self.around(x))


def resnet18() -> nn.Module:
    """ResNet-18 with the stem for small images, of shape (samples, 3, 32, 32): 11 million weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for before, after, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Block(before, after, stride), Block(after, after, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class OfOnePixel(nn.Linear):
    """10 classes from the first pixel of images, of shape (samples, 3, 32, 32): next to nothing to compute."""

    def __init__(self) -> None:
        super().__init__(3, 10)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[:, :, 0, 0])


def squared_error(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(network(x), y)


def cross_entropy(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(network(x), y)


def cross_entropy_of_bytes(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of uint8: cast and normalized here, a batch at a time."""
    return functional.cross_entropy(network(x.float().div_(255).sub_(0.1307).div_(0.3081)), y)


def power(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """For a network whose output is as wide as its input; there is nothing to learn."""
    return network(x).square().mean()


# ---- what is trained in each case ---------------------------------------------------------------------------

sgd = partial(torch.optim.SGD, lr=0.01)
LINEAR = Task(100, partial(line, 10_000), partial(nn.Linear, 10, 1), squared_error, sgd)
TASKS = {
    "linear": LINEAR,
    "mlp": Task(64, partial(labelled, 10_000, 784), perceptron, cross_entropy, sgd),
    "uint8": Task(
        128,
        partial(images_of_bytes, 55_000, 28, 28),
        normalized_perceptron,
        cross_entropy_of_bytes,
        partial(torch.optim.Adam, lr=0.001),
    ),
    "many": Task(64, partial(labelled, 10_000, 8), partial(tower, 400, 8, True), power, sgd, 1 / 10, False),
    "large": Task(64, partial(labelled, 10_000, 2_500), partial(tower, 4, 2_500, False), power, sgd, 1 / 30, False),
    "images": Task(16, partial(labelled, 1_000, 3, 32, 32), resnet18, cross_entropy, sgd, 1 / 80, False),
}
