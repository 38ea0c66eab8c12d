"""A small network cut up by FSDP2, and on two dimensions, trained for some steps in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


class Small(nn.Module):
    """Odd sizes, a buffer, a weight that is in no loss, and one that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last, self.unused = (
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3), nn.Linear(2, 2),
        )  # fmt: skip
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x).tanh()))


def network(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small().double()


def cut(made: Small, *mesh: int) -> Small:
    """Over the processes: by data alone, or by data and tensor."""
    devices = init_device_mesh("cpu", mesh, mesh_dim_names=("data", "tensor")[: len(mesh)])
    if len(mesh) == 2:
        plan = {
            "first": ColwiseParallel(output_layouts=Replicate()),
            "last": RowwiseParallel(input_layouts=Replicate()),
        }
        parallelize_module(made, devices["tensor"], plan)
    return fully_shard(made, mesh=devices["data"])  # pyright: ignore


def optimizer(made: Small) -> torch.optim.Optimizer:
    """Two groups, not in the order of the network."""
    rest = [*made.norm.parameters(), *made.last.parameters(), *made.unused.parameters()]
    return torch.optim.AdamW([{"params": rest, "lr": 0.05}, {"params": list(made.first.parameters())}], lr=0.1)


def train(made: nn.Module, by: torch.optim.Optimizer, steps: range) -> None:
    """The same batch on each process, so that the layout changes nothing."""
    for step in steps:
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        by.zero_grad()
        made(x).square().mean().backward()
        by.step()


def checkpoint(module: nn.Module, by: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    """As Lightning makes it of a sharded training."""
    states = get_optimizer_state_dict(module, by, options=StateDictOptions(cpu_offload=True))
    return {
        "state_dict": module.state_dict(), "optimizer_states": [states], "lr_schedulers": [], "callbacks": {},
        "global_step": step, "loops": {"fit_loop": {}}, "pytorch-lightning_version": "2.6.6", "extra": [1, (2.5, "a")],
    }  # fmt: skip


def whole(module: nn.Module, by: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, and the optimizer's state, as whole tensors."""
    weights = {name: _full(value) for name, value in module.state_dict().items()}
    state = by.state_dict()
    by_number = {i: {key: _full(value) for key, value in each.items()} for i, each in state["state"].items()}
    return weights, by_number


def _full(value: Any) -> Any:
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()


def same(a: Any, b: Any) -> bool:
    """Bit for bit, in any nesting."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
