"""Networks of a size that a GPU is bought for, written out: no package of models is needed."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1, around which the input goes by: K. He et al. (2016), arXiv 1512.03385."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.way = nn.Sequential(
            *(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)),
        )
        self.around = nn.Identity()
        if before != after:
            self.around = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.way(x) + self.around(x))


def resnet50() -> nn.Module:
    """ResNet-50 for 1,000 classes, of shape (samples, 3, 224, 224): 26 million weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(before, width, stride if block == 0 else 1))
            before = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1_000))


class Attends(nn.Module):
    """A layer of GPT-2: attention to what came before, then two linear layers, each after a normalization."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.told = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.way = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.asked(self.before(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.told(seen.transpose(1, 2).flatten(2))
        return x + self.way(self.between(x))


class GPT2(nn.Module):
    """Of GPT-2's smallest size, 124 million weights; its 50,257 words filled up to a multiple of 64, which is faster.

    Tokens of shape (samples, places) to numbers for each word, of shape (samples, places, words).
    """

    def __init__(self, words: int = 50_304, places: int = 1_024, layers: int = 12, heads: int = 12, width: int = 768):
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(places, width)
        self.layers = nn.Sequential(*(Attends(width, heads) for _ in range(layers)))
        self.after = nn.LayerNorm(width)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return functional.linear(self.after(self.layers(x)), self.words.weight)


def next_word(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(network(x).flatten(0, 1), y.flatten())


def tokens(sequences: int, places: int, words: int) -> tuple[Tensor, Tensor]:
    """Sequences of random words, and the same one word later."""
    text = torch.randint(words, (sequences, places + 1), generator=torch.Generator().manual_seed(0))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()
