"""A checkpoint is all that an evaluation needs."""

import json
from pathlib import Path

import pytest
from commands import Commands


@pytest.fixture
def checkpoint(commands: Commands) -> tuple[Path, dict]:
    done = commands("train", "+experiment=digits", "trainer=cpu", "trainer.max_epochs=1", "model=mlp", "logger=none")
    assert done.code == 0, done.err
    return done.run / "checkpoints/best.ckpt", done.result


def test_it_gives_the_numbers_of_the_run(checkpoint: tuple[Path, dict], commands: Commands) -> None:
    path, result = checkpoint
    before = sorted(commands.folder.rglob("*"))
    done = commands("evaluate", str(path))
    assert done.code == 0, done.err
    tested = {name: value for name, value in result["metrics"].items() if name.startswith("test/")}
    assert json.loads(done.out) == pytest.approx(tested)
    assert sorted(commands.folder.rglob("*")) == before, "an evaluation leaves nothing"


def test_a_checkpoint_may_move(checkpoint: tuple[Path, dict], commands: Commands, tmp_path: Path) -> None:
    path, result = checkpoint
    path.rename(commands.folder / "moved.ckpt")
    done = commands("evaluate", "moved.ckpt", "data.eval_batch_size=7", "trainer.accelerator=cpu")
    assert json.loads(done.out)["test/acc"] == pytest.approx(result["metrics"]["test/acc"])


@pytest.mark.parametrize("change", ["data.nope=3", "nonsense", "data.eval_batch_size=0"])
def test_changes_are_checked(change: str, checkpoint: tuple[Path, dict], commands: Commands) -> None:
    done = commands("evaluate", str(checkpoint[0]), change)
    assert (done.code, done.err.count("\n")) == (2, 1)
