"""Two groups of two processes: batches are shared out over the groups, the network over the processes of a group."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import fit
from several import together

from metronome.data import Splits
from metronome.models.schedulers import constant
from metronome.training.sharded import ShardedStrategy
from metronome.training.sharded.tensors import whole
from project.data import Text
from project.models import LanguageModel, Transformer

N, BATCH, LENGTH = 45, 16, 24
ADAMW = partial(torch.optim.AdamW, lr=0.003)


class Few(Text):
    """The first documents of each split."""

    def load(self) -> Splits:
        train, val, _ = super().load()
        return Splits(train=train[:N], val=val[:7])


def model() -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Transformer(128, LENGTH, width=16, depth=2, num_heads=2).double(), ADAMW, constant)


def trained(layout: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    module, run = fit(
        model=model(), data=Few(max_length=LENGTH, batch_size=BATCH), max_epochs=2, precision="64-true",
        **layout, **flags,
    )  # fmt: skip
    metrics = {name: float(value) for name, value in run.callback_metrics.items() if "second" not in name}
    counters = run.counters.state_dict()
    return {"weights": {n: whole(p.detach()) for n, p in module.named_parameters()}, "metrics": metrics} | {
        "samples": counters["samples"], "steps": run.global_step, "devices": run.plan.devices,
    }  # fmt: skip


def on(devices: int, sizes: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    return trained({"devices": devices, "strategy": ShardedStrategy(**sizes)}, flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "tensor_parallel", "flags"),
    [
        (4, 2, {}),
        (4, 2, {"accumulate_grad_batches": 3}),
        (4, 2, {"gradient_clip_val": 0.1}),
        (2, 2, {"accumulate_grad_batches": 2}),
        (2, 1, {"accumulate_grad_batches": 5}),
    ],
)
def test_as_on_one_device(processes: int, tensor_parallel: int, flags: dict[str, Any], tmp_path: Path) -> None:
    expected = trained({}, flags)
    sizes = {"tensor_parallel_size": tensor_parallel}
    for each in together(processes, tmp_path, on, processes, sizes, flags):
        assert each["devices"] == processes // tensor_parallel
        assert (each["samples"], each["steps"]) == (expected["samples"], expected["steps"])
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(
                each["weights"][name], weight, rtol=1e-12, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
            )
        assert each["metrics"] == pytest.approx(expected["metrics"], rel=1e-12)
