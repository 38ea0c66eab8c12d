"""Modules of many kinds, spread over two processes: each trains as on one device."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import FEATURES, Net, fit
from several import together
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, SumMetric

from metronome.models.optimizers import Muon
from metronome.training.sharded import ShardedStrategy
from metronome.training.sharded.blocks import networks_and_blocks
from metronome.training.sharded.tensors import whole


class OwnWeights(Net):
    """A weight of the module itself, and of a network that is called by another method than forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 0.5, dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.mse_loss(self.net(x) * self.scale, y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


class Plain(Net):
    """Two layers without a list, and a torchmetric over samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        del self.net
        self.first, self.last = nn.Linear(FEATURES, 7).double(), nn.Linear(7, 1).double()
        self.error = MeanSquaredError().set_dtype(torch.float64)

    def net(self, x: Tensor) -> Tensor:  # pyright: ignore
        return self.last(torch.tanh(self.first(x)))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.error.update(self.net(x), y)
        self.log("val/loss", self.error)


class SomeCount(Net):
    """The loss is a mean over some samples; of some micro-batches over none."""

    def loss_weight(self, batch: Any) -> Tensor:
        return (batch[1] > 0.8).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = ((self.net(x) - y) ** 2)[y > 0.8].mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/loss", ((self.net(x) - y) ** 2)[y > 0.8].mean())


class SpreadsItself(Net):
    def configure_model(self) -> None:
        from torch.distributed.fsdp import FSDPModule, fully_shard

        mesh: Any = self.device_mesh
        if mesh is not None and not isinstance(self.net, FSDPModule):
            fully_shard(self.net, mesh=mesh["data_parallel"])


class Cut(Net):
    """Says itself how its network is cut up over tensor-parallel devices."""

    def parallelize(self, mesh: Any) -> None:
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        parallelize_module(self.net, mesh, {"0": ColwiseParallel(), "3": RowwiseParallel()})


class CutMetric(Cut):
    """Counts samples, which devices that see the same ones must not do twice."""

    def __init__(self) -> None:
        super().__init__()
        self.count = SumMetric()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.count.update(len(batch[0]))
        self.log("val/count", self.count)
        self.log("val/loss", 0.0)


class TiedBlocks(Net):
    """Weights that a block shares with another, and one network with another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        layers = [nn.Linear(FEATURES, FEATURES) for _ in range(4)]
        layers[2].weight = layers[0].weight
        self.net = nn.Sequential(*layers, nn.Linear(FEATURES, 1)).double()


class TiedNetworks(Net):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        del self.net
        self.there, self.back = (nn.Linear(FEATURES, FEATURES).double() for _ in "ab")
        self.back.weight, self.head = self.there.weight, nn.Linear(FEATURES, 1).double()

    def net(self, x: Tensor) -> Tensor:  # pyright: ignore
        return self.head(self.back(torch.tanh(self.there(x))))


class WithMuon(Net):
    """What is made orthogonal is a whole matrix."""

    def configure_optimizers(self) -> Any:
        return Muon(self.parameters(), lr=0.01)


class WithRprop(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.Rprop(self.parameters(), lr=0.01)


def trained(kind: type[Net], **flags: Any) -> Any:
    model, run = fit(model=kind(), accumulate_grad_batches=3, precision="64-true", **flags)
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    return {n: whole(p.detach()) for n, p in model.named_parameters()}, metrics, model.epoch_means


def on_shards(kind: type[Net], options: dict[str, Any]) -> Any:
    return trained(kind, devices=int(os.environ["WORLD_SIZE"]), strategy=ShardedStrategy(**options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (OwnWeights, {}),
        (Plain, {}),
        (SomeCount, {}),
        (SpreadsItself, {}),
        (Net, {"shard_modules": ["Linear"]}),
        (Net, {"reshard_after_forward": False}),
        (Net, {"reduce_each_micro_batch": True}),
        (TiedBlocks, {}),
        (TiedNetworks, {}),
        (WithMuon, {}),
        (WithRprop, {}),
        (Cut, {"tensor_parallel_size": 2}),
        (CutMetric, {"tensor_parallel_size": 2}),
    ],
)
def test_as_on_one_device(kind: type[Net], options: dict[str, Any], tmp_path: Path) -> None:
    weights, metrics, means = trained(kind)
    for found in together(2, tmp_path, on_shards, kind, options):
        assert found[0].keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(found[0][name], weight, rtol=1e-12, atol=1e-12)
        assert found[1] == pytest.approx(metrics, rel=1e-11)
        assert found[2] == pytest.approx(means, rel=1e-11)


class Unlike(Net):
    """Each process makes its own weights."""

    def __init__(self) -> None:
        super().__init__()
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        for weight in self.parameters():
            weight.data.add_(rank)


@pytest.mark.slow
def test_weights_are_those_of_the_first_process(tmp_path: Path) -> None:
    weights, _, _ = trained(Net)
    for found in together(2, tmp_path, on_shards, Unlike, {}):
        for name, weight in weights.items():
            torch.testing.assert_close(found[0][name], weight, rtol=1e-12, atol=1e-12)


class Norms(Net):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).double()


def with_norms(strategy: str) -> Any:
    chosen: Any = ShardedStrategy() if strategy == "fsdp" else "ddp"
    model, _ = fit(model=Norms(), devices=2, strategy=chosen, precision="64-true")
    return {name: whole(value.detach()) for name, value in model.state_dict().items()}


@pytest.mark.slow
def test_batch_norm_is_that_of_ddp(tmp_path: Path) -> None:
    expected, found = together(2, tmp_path, with_norms, "ddp")[0], together(2, tmp_path, with_norms, "fsdp")[0]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def in_precision(precision: str) -> Any:
    class Single(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net.float()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            kind = next(self.net.parameters()).dtype
            return super().training_step([part.to(kind) for part in batch], batch_idx)

    model, _ = fit(
        model=Single(), devices=2, strategy=ShardedStrategy(), precision=precision, accumulate_grad_batches=2,
        limit_val_batches=0, gradient_clip_val=1.0,
    )  # fmt: skip
    return next(model.parameters()).dtype, torch.cat([whole(p.detach()).flatten().double() for p in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "kept", "error"), [("bf16-mixed", torch.float32, 0.01), ("bf16-true", torch.bfloat16, 0.05)]
)
def test_low_precision(precision: str, kept: torch.dtype, error: float, tmp_path: Path) -> None:
    """Near what float32 gives, in a mean over the weights, and not the same."""
    (_, expected), _ = together(2, tmp_path, in_precision, "32-true")
    (dtype, found), _ = together(2, tmp_path, in_precision, precision)
    assert dtype is kept
    assert 1e-6 < float((found - expected).abs().mean()) < error


def test_which_blocks_there_are() -> None:

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.norms = nn.Embedding(3, 8), nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
            self.stages = nn.ModuleList(
                nn.Sequential(*(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))) for _ in "ab"
            )
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(2))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x

    module = Net()
    module.net = Tower()  # pyright: ignore
    [(found, blocks)] = networks_and_blocks(module, None)
    assert found is module.net
    assert blocks == list(module.net.blocks)
    [(_, named)] = networks_and_blocks(module, ["Linear", "TransformerEncoderLayer"])
    assert {type(part).__name__ for part in named} == {"Linear", "TransformerEncoderLayer"}
    first: Any = module.net.blocks[0]
    assert named.index(first.linear1) < named.index(first)
