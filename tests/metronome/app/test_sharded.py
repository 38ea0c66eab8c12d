"""`trainer=fsdp_cpu`: a run whose weights are spread over two processes, from the first command to a test elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from forked import run_forked

from metronome.app.run.checkpoints import read_checkpoint
from metronome.app.run.result import weights_digest

TEXT = (
    "+experiment=text", "data.max_length=32", "data.eval_batch_size=256", "model.network.width=16", "budget=12steps",
    "trainer.precision=64-true", "trainer.val_check_interval=6", "num_threads=1", "hydra.run.dir=run",
)  # fmt: skip


class Holds(torch.nn.Module):
    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = state

    def state_dict(self, *_: object, **__: object) -> dict[str, torch.Tensor]:  # pyright: ignore
        return self.state


@pytest.mark.slow
def test_a_run(tmp_path: Path) -> None:
    results = {}
    for trainer in ("cpu", "fsdp_cpu"):
        folder = tmp_path / trainer
        folder.mkdir()
        done = run_forked(folder, "train", *TEXT, f"trainer={trainer}", "trainer.accumulate_grad_batches=2")
        assert (done.code, done.err) == (0, ""), done.err[-3000:]
        results[trainer] = json.loads((folder / "run/result.json").read_text())
    one, two = results["cpu"], results["fsdp_cpu"]
    assert two["plan"]["devices"] == 2
    assert two["progress"] == one["progress"]
    for name in ("train/loss", "val/loss", "test/loss"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-11), name
    content = read_checkpoint(tmp_path / "fsdp_cpu/run/checkpoints/last.ckpt")
    assert weights_digest(Holds(content["state_dict"])) == two["weights_sha256"]
    expected = read_checkpoint(tmp_path / "cpu/run/checkpoints/last.ckpt")["state_dict"]
    for name, weight in content["state_dict"].items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-11, atol=1e-11)

    checkpoint = "run/checkpoints/best.ckpt"
    done = run_forked(tmp_path / "fsdp_cpu", "evaluate", checkpoint)
    assert done.code == 0, done.err
    assert json.loads(done.out)["test/loss"] == pytest.approx(two["metrics"]["test/loss"], rel=1e-11)

    # It goes on, and on one device too.
    for folder, trainer in (("fsdp_cpu", "fsdp_cpu"), ("cpu", "fsdp_cpu")):
        arguments = [part for part in TEXT if not part.startswith(("budget", "hydra"))]
        done = run_forked(
            tmp_path / folder, "train", *arguments, f"trainer={trainer}", "trainer.accumulate_grad_batches=2",
            "budget=18steps", "ckpt_path=run/checkpoints/last.ckpt", "hydra.run.dir=longer",
        )  # fmt: skip
        assert done.code == 0, done.err
        results[folder] = json.loads((tmp_path / folder / "longer/result.json").read_text())
    one, two = results["cpu"], results["fsdp_cpu"]
    assert two["metrics"]["test/loss"] == pytest.approx(one["metrics"]["test/loss"], rel=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["callbacks=ema"],
            "ShardedStrategy shards weights, and EMA averages whole ones; use trainer.strategy=auto or ddp",
        ),
        (
            ["optimizer=lbfgs"],
            "L-BFGS takes all weights as one row of numbers, whole; use trainer.strategy=ddp with it",
        ),
        (
            ["+debug=layout", "trainer.devices=2"],
            "a layout is looked at on one device; give trainer.devices=1 trainer.strategy=auto",
        ),
        (["trainer.strategy.shard_modules=[Blok]"], "there is: Conv2d, GroupNorm, Linear, Sequential"),
        (
            ["trainer.strategy.tensor_parallel_size=2"],
            "needs a network that says how it is cut up: a method parallelize",
        ),
        (["trainer.accumulate_grad_batches=auto"], "needs the strategy ddp, not ShardedStrategy; give a number"),
    ],
)
def test_what_cannot_be(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = run_forked(tmp_path, "train", "+experiment=digits", "trainer=fsdp_cpu", "budget=3steps", *arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert line in " ".join((done.out + done.err).split()), done.out + done.err
