"""A step of a sharded training: what it sends, what it keeps, and what it does about numbers that are not finite."""

import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from jobs import Data, Net, fit
from lightning.pytorch.callbacks import Callback
from sent import Sent
from several import together
from torch import Tensor, nn

from metronome.training.guards import agreement
from metronome.training.sharded import ShardedStrategy
from metronome.training.sharded.tensors import own_part, whole
from metronome.units import InputError, RunFailed


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(10, 10), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(torch.tanh(self.inner(x)))


class Blocks(Net):
    """Three blocks and a last layer: four parts that meet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(Block(), Block(), Block(), nn.Linear(10, 1))


class Counts(Callback):
    """What a process sends in its third step."""

    def __init__(self) -> None:
        self.sent = Sent()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            self.sent.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            self.sent.__exit__(None, None, None)


Counts.on_train_batch_end.__module__ = "metronome.test"  # or its hook could look at the loss


def world() -> int:
    return int(os.environ["WORLD_SIZE"])


def counted(options: dict[str, Any], accumulation: int) -> dict[str, int]:
    counts = Counts()
    agreement._SECONDS = 1e9  # between what is exchanged about stops and saves
    fit(
        model=Blocks(), data=Data(batch_size=32), callbacks=[counts], devices=world(),
        strategy=ShardedStrategy(**options), accumulate_grad_batches=accumulation, max_epochs=-1, max_steps=4,
    )  # fmt: skip
    return {name: counts.sent.names.count(name) for name in sorted(set(counts.sent.names))}


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
def test_gradients_meet_once_a_step(accumulation: int, tmp_path: Path) -> None:
    """Each block's and the rest's: one reduce_scatter a step, however it is cut; nothing else waits."""
    found = together(2, tmp_path, counted, {}, accumulation)
    # Weights are gathered for each pass, those of the last layers once for both; the logged
    # value is one sum, the loss that the module's own hook is given another.
    expected = {"_allgather_base_": 7 * accumulation, "_reduce_scatter_base_": 4, "allreduce_": 2}
    assert found == [expected, expected]
    # Weights that stay whole between passes are gathered once a step.
    found = together(2, tmp_path, counted, {"reshard_after_forward": False}, accumulation)
    assert found == [expected | {"_allgather_base_": 4}] * 2
    found = together(2, tmp_path, counted, {"reduce_each_micro_batch": True}, accumulation)
    assert [each["_reduce_scatter_base_"] for each in found] == [4 * accumulation] * 2


def forgetful(options: dict[str, Any]) -> Any:
    calls = []
    model = Blocks()
    model.net[0].inner.register_forward_hook(lambda *_: calls.append(1))  # pyright: ignore
    fit(
        model=model,
        devices=world(),
        strategy=ShardedStrategy(**options),
        accumulate_grad_batches=2,
        max_epochs=1,
        limit_val_batches=0,
    )
    return torch.cat([whole(p.detach()).flatten() for p in model.parameters()]), len(calls)


@pytest.mark.slow
def test_blocks_that_are_computed_again(tmp_path: Path) -> None:
    """Dropout included, to the bit; and they are."""
    (expected, once), _ = together(2, tmp_path, forgetful, {})
    (found, twice), _ = together(2, tmp_path, forgetful, {"activation_checkpointing": True})
    assert torch.equal(found, expected)
    assert (once, twice) == (10, 20)


class Bad(Net):
    """Not finite in its fourth step: the loss on one process, or one number of the gradient."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        is_it = self.trainer.global_step == 3
        return loss * float("nan") if is_it and self.what == "loss" and self.trainer.global_rank == 1 else loss

    def on_before_optimizer_step(self, optimizer: Any) -> None: ...

    def on_after_backward(self) -> None:
        if self.trainer.global_step == 3 and self.what == "gradient" and self.trainer.global_rank == 1:
            own_part(next(self.parameters()).grad)[0, 0] = float("inf")


def bad(what: str, on_nonfinite: str, folder: Path) -> Any:
    model = Bad(what)
    try:
        _, run = fit(model=model, devices=world(), strategy=ShardedStrategy(), on_nonfinite=on_nonfinite, max_epochs=2)
    except RunFailed as error:
        return str(error)
    return run.nonfinite[0]["step"], len(run.nonfinite), bool(own_part(next(model.parameters())).isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite(what: str, tmp_path: Path) -> None:
    """Seen by one process, it ends them all, or is left out by all."""
    lines = together(2, tmp_path, bad, what, "stop", tmp_path)
    assert f"the {what} is not finite in step 4" in lines[1]
    assert "not finite" in lines[0]
    assert together(2, tmp_path, bad, what, "skip", tmp_path) == [(4, 1, True)] * 2


@pytest.mark.parametrize(
    ("options", "flags", "words"),
    [
        ({"tensor_parallel_size": 0}, {}, "tensor_parallel_size=0 is not a number of devices from 1 up"),
        ({"data_parallel_size": "all"}, {}, "data_parallel_size='all' is not a number of devices from 1 up, or auto"),
        ({"tensor_parallel_size": 3}, {}, "must be the number of devices, 2; leave data_parallel_size at auto"),
        ({"data_parallel_size": 4}, {}, "data_parallel_size=4 times tensor_parallel_size=1 must be the number"),
        ({}, {"accumulate_grad_batches": "auto"}, "needs the strategy ddp, not ShardedStrategy; give a number"),
        ({}, {"precision": "16-mixed"}, "precision=16-mixed does not go with sharded weights; use bf16-mixed"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], flags: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        fit(devices=2, strategy=ShardedStrategy(**options), **flags)
    assert words in str(error.value)
