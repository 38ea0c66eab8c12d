"""Whole runs on a GPU: run with `pytest -m gpu`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands, Done

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def run(commands: Commands, name: str, *words: str) -> Done:
    """A run in a folder of its own."""
    (folder := commands.folder / name).mkdir()
    done = Commands(folder, commands.monkeypatch, commands.capfd)("train", "+experiment=digits", *words)
    assert done.code == 0, done.err
    return done


def last(done: Done) -> dict[str, Any]:
    saved = torch.load(Path(done.run) / "checkpoints/last.ckpt", weights_only=True, map_location="cpu")
    return saved["state_dict"]


def test_the_weights_of_a_cpu(commands: Commands) -> None:
    """A convolutional network in float32 after 20 steps; the loss too."""
    words = ("budget=20steps", "optimizer.lr=0.01", "scheduler=constant", "seed=3")
    here, there = (run(commands, name, f"trainer={name}", *words) for name in ("cpu", "gpu"))
    assert list(last(here)) == list(last(there))
    for name, tensor in last(here).items():
        torch.testing.assert_close(last(there)[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert there.result["metrics"]["val/loss"] == pytest.approx(here.result["metrics"]["val/loss"], rel=1e-5)


def test_the_same_command_the_same_weights(commands: Commands) -> None:
    first, again = (run(commands, name, "trainer=gpu", "budget=2epochs") for name in ("first", "again"))
    assert first.result["weights_sha256"] == again.result["weights_sha256"]


def test_data_on_the_device(commands: Commands) -> None:
    kinds = ("true", "auto", "false")
    runs = [run(commands, kind, "trainer=gpu", "budget=2epochs", f"data.on_device={kind}") for kind in kinds]
    assert len({done.result["weights_sha256"] for done in runs}) == 1


def test_fast_learns_as_well(commands: Commands) -> None:
    """As the experiment says, 98.6 to 99.4 % of the test set; names in the checkpoint as ever."""
    fast, plain = run(commands, "fast", "trainer=gpu_fast"), run(commands, "plain", "trainer=gpu", "budget=1epoch")
    assert fast.result["status"] == "finished"
    assert fast.result["metrics"]["test/acc"] > 0.97
    assert list(last(fast)) == list(last(plain))
    assert all(tensor.dtype == torch.float32 for tensor in last(fast).values() if tensor.is_floating_point())
    done = Commands(fast.folder, commands.monkeypatch, commands.capfd)(
        "evaluate", str(fast.run / "checkpoints/best.ckpt"), "trainer.accelerator=cpu", "trainer.precision=32-true"
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(("first", "then"), [("gpu_fast", "gpu"), ("gpu", "gpu_fast"), ("gpu_fast", "cpu")])
def test_gone_on_with_in_the_other_way(first: str, then: str, commands: Commands) -> None:
    """A checkpoint of either is one of the other's."""
    begun = run(commands, "begun", f"trainer={first}", "budget=2epochs", "optimizer=adamw", "optimizer.lr=0.001")
    checkpoint = begun.run / "checkpoints/last.ckpt"
    words = (f"trainer={then}", "budget=15epochs", "optimizer=adamw", "optimizer.lr=0.001", f"ckpt_path={checkpoint}")
    done = run(commands, "gone_on", *words)
    assert [result["progress"]["epochs"] for result in done.results] == [15]
    assert done.result["metrics"]["test/acc"] > 0.95
