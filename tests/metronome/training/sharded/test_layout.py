"""One model spread over processes trains as on one: the same weights, values and metrics to rounding."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Net, fit, plain_loop
from several import together

from metronome.training.sharded import ShardedStrategy
from metronome.training.sharded.tensors import whole


class Adam(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def seen(model: Any) -> dict[str, Any]:
    return {
        "weights": torch.cat([whole(p.detach()).flatten() for p in model.parameters()]),
        **{name: getattr(model, name) for name in ("step_losses", "logged", "epoch_means", "val_losses")},
    }


def on_shards(kind: type[Net], strategy: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    devices = int(os.environ["WORLD_SIZE"])
    sharded = ShardedStrategy(**strategy)
    model, _ = fit(model=kind(), devices=devices, strategy=sharded, precision="64-true", **flags)
    return seen(model)


def alike(one: Any, other: Any) -> None:
    for name in ("weights", "logged", "epoch_means", "val_losses"):
        ours, theirs = (torch.as_tensor(each[name]) for each in (one, other))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("accumulation", [3])
def test_as_a_plain_loop(accumulation: int, tmp_path: Path) -> None:
    """Of 157 samples in batches of 32, on two processes, in micro-batches that do not divide them."""
    found = together(2, tmp_path, on_shards, Net, {}, {"accumulate_grad_batches": accumulation})
    expected, losses = plain_loop()
    for each in found:
        torch.testing.assert_close(each["weights"], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(each["step_losses"], losses, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("kind", [Net, Adam])
@pytest.mark.parametrize(
    "clip", [{}, {"gradient_clip_val": 0.3}, {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}]
)
def test_as_on_one_device(
    kind: type[Net], accumulation: int, processes: int, clip: dict[str, Any], tmp_path: Path
) -> None:
    flags = {"accumulate_grad_batches": accumulation, **clip}
    model, _ = fit(model=kind(), precision="64-true", **flags)
    for each in together(processes, tmp_path, on_shards, kind, {}, flags):
        alike(each, seen(model))
