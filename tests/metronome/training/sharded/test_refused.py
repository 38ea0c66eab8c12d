"""What weights in parts do not allow is said in a line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import FEATURES, Net, fit
from several import together
from torch import Tensor, nn

from metronome.training.sharded import ShardedStrategy
from metronome.units import InputError


class Number(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net.scale = nn.Parameter(torch.tensor(1.0))


def refused(kind: type[Net], options: dict[str, Any]) -> str:
    try:
        fit(model=kind(), devices=2, strategy=ShardedStrategy(**options), precision="64-true")
    except InputError as error:
        return str(error)
    return ""


class Plain(Net):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, 1).double()


class Forgets(Net):
    def configure_model(self) -> None: ...


class Lbfgs(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class ReadsWeights(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + sum(w.square().sum() for w in self.net.parameters())


class CallsParts(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net[3](torch.tanh(self.net[0](batch[0]))), batch[1])  # pyright: ignore
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


class Adafactor(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adafactor(self.parameters())


class Penalty(Net):
    """The gradient of a gradient."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        return super().training_step(batch, batch_idx) + slope.square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (Number, {}, "net.scale is a single number without a dimension, which cannot be spread over devices"),
        (Forgets, {}, "its configure_model must call fully_shard, or be left out"),
        (Lbfgs, {}, "L-BFGS takes all weights as one row of numbers"),
        (
            ReadsWeights,
            {},
            "ReadsWeights uses a weight, or calls a part of a network, outside of",
        ),
        (CallsParts, {}, "CallsParts uses a weight, or calls a part of a network, outside of"),
        (
            Adafactor,
            {},
            "Adafactor cannot be used on weights that are spread over devices, for which",
        ),
        (Penalty, {}, "Penalty takes the gradient of a gradient"),
        (Net, {"shard_modules": ["Block"]}, "shard_modules has Block, and no part of Net is of a class of that name"),
        (Net, {"tensor_parallel_size": 2}, "needs a network that says how it is cut up: a method parallelize"),
        (Plain, {"activation_checkpointing": True}, "works block by block, and Plain has none"),
    ],
)
def test_what_cannot_be(kind: type[Net], options: dict[str, Any], words: str, tmp_path: Path) -> None:
    for line in together(2, tmp_path, refused, kind, options):
        assert words in line
