"""A user's mistake: one clear line, a non-zero exit, no traceback, nothing half written."""

from pathlib import Path

import pytest
import torch
from commands import Commands

DIGITS, LINEAR = "+experiment=digits", "+experiment=linear"


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        # composing
        ("train", ["+experiment=nope"], "no experiment 'nope'; there are: digits, linear"),
        ("train", ["experiment=digits"], "write +experiment="),
        ("train", [DIGITS, "optimizer=nope"], "no optimizer 'nope'; there are: adam, adamw, momentum, sgd"),
        ("train", [DIGITS, "nope=1"], "no key 'nope' in the configuration"),
        ("train", [DIGITS, "data.nope=1"], "no key 'nope' in data; data has: "),
        ("train", [DIGITS, "data.batch_size=[1"], "cannot read the override 'data.batch_size=[1'"),
        ("train", [DIGITS, "data._target_=metronome.data.Nope"], "metronome.data.Nope"),
        ("train", [DIGITS, "+data.nope=1"], "unexpected keyword argument 'nope'"),
        ("train", [DIGITS, "+callbacks.mine.x=1"], "callbacks.mine has no _target_"),
        ("train", [DIGITS, "data._target_=torch.nn.Identity"], "data must make a LightningDataModule"),
        ("train", [DIGITS, "model._target_=torch.nn.Identity"], "model must make a LightningModule"),
        ("train", [DIGITS, "trainer.max_epochs=${nope}"], "nope"),
        # units
        ("train", [DIGITS, "data.batch_size=0"], "data.batch_size=0 is not a number of samples"),
        ("train", [DIGITS, "data.batch_size=-5"], "data.batch_size=-5"),
        ("train", [DIGITS, "data.batch_size=many"], "data.batch_size='many'"),
        ("train", [DIGITS, "data.batch_size=2.5"], "data.batch_size=2.5"),
        ("train", [DIGITS, "data.batch_size=1258"], "larger than the 1,257 training samples; use data.batch_size=full"),
        ("train", [DIGITS, "data.batch_growth={factor: 0}"], "data.batch_growth"),
        ("train", [DIGITS, "trainer.accumulate_grad_batches=0"], "accumulate_grad_batches=0"),
        ("train", [DIGITS, "trainer.accumulate_grad_batches=65"], "use at most 64"),
        ("train", [DIGITS, "trainer=ddp_cpu", "trainer.accumulate_grad_batches=33"], "use at most 32"),
        ("train", [DIGITS, "budget=500"], "has no unit; add one, e.g. `500 steps`"),
        ("train", [DIGITS, "budget=10 parsecs"], "no unit `parsecs`"),
        ("train", [DIGITS, "budget=10%"], "budget=10%"),
        ("train", [DIGITS, "budget=-1 epochs"], "negative"),
        (
            "train",
            [DIGITS, "budget=500steps", "trainer.max_epochs=3"],
            "two budgets: budget=500steps and trainer.max_epochs=3",
        ),
        ("train", [DIGITS, "budget='2 epochs 5 steps'"], "two durations"),
        ("train", [DIGITS, "scheduler=cosine", "scheduler.warmup=5"], "has no unit"),
        ("train", [DIGITS, "scheduler=cosine", "scheduler.warmup=100%"], "make it shorter"),
        ("train", [DIGITS, "budget=90 s"], "scheduler OneCycleLR must know the number of steps"),
        ("train", [DIGITS, "seed=-1"], "seed=-1"),
        ("train", [DIGITS, "num_threads=0"], "num_threads=0"),
        ("train", [DIGITS, "seed=half"], "seed='half'"),
        (
            "train",
            [DIGITS, "trainer.val_check_interval=50"],
            "val_check_interval=50 is more than the 20 steps of an epoch",
        ),
        ("train", [DIGITS, "trainer.val_check_interval=0"], "trainer.val_check_interval=0 is no interval"),
        ("train", [DIGITS, "trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0 is no interval"),
        ("train", [DIGITS, "trainer.limit_train_batches=0"], "the training has no step"),
        ("train", [DIGITS, "data.batch_growth=2"], "data.batch_growth=2 is not a mapping"),
        ("train", [LINEAR, "data.noise=abc"], "data.noise='abc'"),
        ("train", [LINEAR, "data.num_samples=2.5"], "data.num_samples=2.5"),
        ("train", [DIGITS, "data.shuffle=maybe"], "data.shuffle='maybe' is neither true nor false"),
        ("train", [DIGITS, "data.num_workers=abc"], "data.num_workers='abc'"),
        ("train", [DIGITS, "model.label_smoothing=2"], "model.label_smoothing=2"),
        ("train", [DIGITS, "model.compile=foo"], "model.compile=foo is no backend"),
        ("train", [DIGITS, "scheduler=cosine", "scheduler.final=abc"], "scheduler.final='abc'"),
        ("train", [DIGITS, "data=null"], "a group takes the name of one of its files"),
        ("train", [DIGITS, "~model"], "model has no _target_ to make"),
        ("train", [DIGITS, "hydra.run.dir=/proc/x"], "/proc/x: "),
        ("train", [LINEAR, "model=mlp"], "labels are whole numbers, and these are torch.float32"),
        ("plan", [DIGITS, "-m", "seed=0,1"], "a plan is of one run"),
        # machine
        ("train", [DIGITS, "trainer=ddp_cpu", "trainer.devices=99"], "trainer.devices=99 processes are more than"),
        ("train", [DIGITS, "trainer.devices=2", "trainer.strategy=ddp_spawn"], "use trainer.strategy=ddp"),
        ("train", [DIGITS, "trainer.strategy=nope"], "nope"),
        ("train", [DIGITS, "trainer.precision=13"], "13"),
        ("train", [DIGITS, "trainer.accelerator=nope"], "nope"),
        ("train", [DIGITS, "trainer.limit_train_batches=2.5"], "invalid value 2.5 for limit_train_batches"),
        ("train", [DIGITS, "trainer.limit_train_batches=-1"], "invalid value -1 for limit_train_batches"),
        ("train", [DIGITS, "trainer.gradient_clip_val=x"], "gradient_clip_val"),
        ("train", [DIGITS, "optimizer.lr=-1"], "optimizer SGD: Invalid learning rate: -1"),
        ("train", [DIGITS, "optimizer.lr=fast"], "optimizer SGD: "),
        ("train", [DIGITS, "trainer.max_epochs=many"], "trainer.max_epochs='many' is not a whole number"),
        ("train", [DIGITS, "trainer.max_epochs=-5"], "max_epochs"),
        ("train", [DIGITS, "trainer.log_every_n_steps=x"], "trainer.log_every_n_steps='x' is not a whole number"),
        ("train", [DIGITS, "trainer.devices=0"], "trainer.devices=0"),
        ("train", [DIGITS, "data.num_workers=-1"], "data.num_workers=-1"),
        # data and model
        ("train", [DIGITS, "model.num_classes=9"], "label 9 is out of range: the model has 9 classes"),
        ("train", [DIGITS, "model.network.num_outputs=12"], "the network has 12 outputs"),
        ("train", [LINEAR, "data.num_samples=0"], "data.num_samples=0"),
        ("train", [LINEAR, "model.network.num_outputs=2"], "the network's outputs have shape"),
        ("train", [LINEAR, "callbacks.checkpoint.monitor=val/nope"], "val/nope"),
        # checkpoints
        ("train", [DIGITS, "ckpt_path=nope.ckpt"], "checkpoint nope.ckpt is not there"),
        ("train", [DIGITS, "ckpt_path=."], "checkpoint . is a folder"),
        ("train", [DIGITS, "ckpt_path=text.ckpt"], "checkpoint text.ckpt cannot be read as plain data"),
        ("train", [DIGITS, "ckpt_path=code.ckpt"], "checkpoint code.ckpt cannot be read as plain data"),
        (
            "train",
            [DIGITS, "ckpt_path=other.ckpt"],
            "checkpoint other.ckpt is of another model: it lacks network.0.weight",
        ),
        ("train", [DIGITS, "ckpt_path=numbers.ckpt"], "it has no state_dict"),
        ("evaluate", ["nope.ckpt"], "checkpoint nope.ckpt is not there"),
        ("evaluate", ["text.ckpt"], "cannot be read as plain data"),
        ("evaluate", ["code.ckpt"], "cannot be read as plain data"),
        ("evaluate", ["other.ckpt"], "no configuration is in it"),
        # plan
        ("plan", [DIGITS, "format=xml"], "use format=text or format=json"),
        ("plan", [DIGITS, "data.batch_size=5000"], "larger than the 1,257 training samples"),
    ],
)
def test_one_line(script: str, arguments: list[str], words: str, commands: Commands) -> None:
    (commands.folder / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {"w": torch.zeros(1)}}, commands.folder / "other.ckpt")
    torch.save({"numbers": torch.zeros(1)}, commands.folder / "numbers.ckpt")
    torch.save({"state_dict": Bomb(commands.folder / "exploded")}, commands.folder / "code.ckpt")
    cpu = ["trainer.accelerator=cpu"] if script != "evaluate" else []
    done = commands(script, *cpu, *arguments)
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert "Traceback" not in done.out + done.err
    assert not (commands.folder / "exploded").exists()
    assert not list(commands.folder.glob("runs/**/*.part"))
    for result in done.results:
        assert result["status"] == "failed"
        assert result["error"] == line.removeprefix("error: ")


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_gpu_that_is_not_there(commands: Commands) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = commands("train", DIGITS, "trainer=gpu")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "use trainer=cpu" in done.err


def test_a_mistake_that_one_process_of_two_meets(commands: Commands) -> None:
    """The label that is out of range may lie in the second one's share alone."""
    done = commands("train", DIGITS, "trainer=ddp_cpu", "model.num_classes=9", "model.network.num_outputs=9")
    assert done.code == 2
    (line,) = done.err.strip().splitlines()
    assert "label 9 is out of range" in line
    assert done.result["status"] == "failed"
    assert done.result["error"] == line.removeprefix("error: ")


def test_an_error_in_the_code_of_a_user_keeps_its_traceback(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("mine")

    monkeypatch.setattr("metronome.models.Classifier.training_step", broken)
    with pytest.raises(ZeroDivisionError):
        commands("train", DIGITS, "trainer=cpu", "logger=none")
    (result,) = commands.folder.glob("runs/**/result.json")
    assert '"error": "ZeroDivisionError: mine"' in result.read_text()
