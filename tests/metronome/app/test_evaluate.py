"""A checkpoint is all that an evaluation needs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import Commands, Done
from forked import run_forked


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Done:
    job = ("+experiment=digits", "trainer=cpu", "trainer.max_epochs=1", "model=mlp", "logger=none")
    done = run_forked(tmp_path_factory.mktemp("trained"), "train", *job)
    assert done.code == 0, done.err
    return done


@pytest.fixture
def checkpoint(trained: Done, commands: Commands) -> tuple[Path, dict]:
    """Of the run, in a folder of one's own; and its result."""
    path = commands.folder / "best.ckpt"
    shutil.copy(trained.run / "checkpoints/best.ckpt", path)
    return path, trained.result


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


def test_changes_reach_deep(checkpoint: tuple[Path, dict], commands: Commands) -> None:
    done = commands("evaluate", str(checkpoint[0]), "trainer.limit_test_batches=1", "data={eval_batch_size: 5}")
    assert json.loads(done.out)["test/acc"] in [pytest.approx(right / 5) for right in range(6)]


def test_the_help_says_what_to_type(commands: Commands) -> None:
    done = commands("evaluate", "--help")
    assert done.code == 0
    assert "allow=mypackage" in done.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.nope=3"], "'data.nope=3' changes nothing"),
        (["data.eval_batch_size.nope=3"], "changes nothing"),
        (["nonsense"], "write key=value"),
        (["data.eval_batch_size=0"], "data.eval_batch_size=0"),
        (["data.eval_batch_size=[1"], "cannot read 'data.eval_batch_size=[1'"),
        (["data.eval_batch_size=${x"], "cannot read 'data.eval_batch_size=${x'"),
        (["data.eval_batch_size=${seed}"], "data.eval_batch_size='${seed}'"),
        (["model.network.hidden=[7]"], "is of another model: network.1.weight has shape (128, 64) there"),
        (["model.network={nope: 1}"], "cannot make project.models.mlp for model.network"),
        (["model._target_=project.data.Linear"], "cannot make project.data.Linear for model"),
        (["data._target_=project.models.mlp"], "for data"),
        (["seed=-1"], "seed=-1"),
        (["trainer.max_epochs=3"], "'trainer.max_epochs=3' has no meaning in an evaluation"),
        (["trainer.devices=2"], "of the trainer's flags it takes accelerator, precision, "),
        (["trainer.precision=13"], "Precision 13 is invalid"),
        (["trainer.precision={a: 1}"], "trainer.precision is a dict"),
        (["trainer.accelerator=nope"], "invalid accelerator name"),
        (["allow="], "allow='' is no package"),
        (["allow=a,,b"], "allow='' is no package"),
        (["allow=a", "allow=../b"], "allow='../b' is no package"),
        (["allow=a,b", "data._target_=torchvision.datasets.MNIST"], "if you trust the file: allow=a,b,torchvision"),
    ],
)
def test_changes_are_checked(changes: list[str], words: str, checkpoint: tuple[Path, dict], commands: Commands) -> None:
    done = commands("evaluate", str(checkpoint[0]), *changes)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err


def test_a_gpu_that_is_not_there(checkpoint: tuple[Path, dict], commands: Commands) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = commands("evaluate", str(checkpoint[0]), "trainer.accelerator=gpu")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "add trainer.accelerator=cpu" in done.err
