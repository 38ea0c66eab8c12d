"""A user's mistake: one clear line, a non-zero exit, no traceback, nothing half written."""

import json
import os
import pickle
import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import PROJECT, Commands, Done, a_process_in, run_apart
from forked import run_forked

DIGITS, LINEAR = "+experiment=digits", "+experiment=linear"
TINY = (LINEAR, "data.num_samples=64", "trainer.max_epochs=1", "logger=none", "num_threads=1")
OWN, BAD = "--config-dir=own", "+experiment=bad"


def told(done: Done, words: str, code: int = 2) -> str:
    """One line says these words; the folder holds nothing half written, and of a run that had begun its end."""
    assert done.code == code, done.err + done.out
    assert "Traceback" not in done.out + done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    whole(done.folder)
    for config in done.folder.glob("runs/**/config.yaml"):
        assert config.with_name("result.json").is_file()
    for result in done.results:
        assert result["status"] == "failed"
        assert result["error"] == line.removeprefix("error: ")
    return line


def whole(folder: Path) -> None:
    """What a run has left can be read, all of it."""
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in folder.glob("runs/**/config.yaml"):
        assert yaml.safe_load(path.read_text())["experiment"]
    for path in folder.rglob("checkpoints/**/*.ckpt"):
        assert torch.load(path, weights_only=True)["state_dict"]
    assert not (folder / "exploded").exists()


def named(rows: list[tuple], more: list[tuple] | None = None) -> list[Any]:
    """Rows with the words for a name; more of their kind run with `-m slow`."""
    marked = [(row, ()) for row in rows] + [(row, pytest.mark.slow) for row in more or ()]
    return [pytest.param(*row, id=f"{i} {row[-1][-50:]}", marks=marks) for i, (row, marks) in enumerate(marked)]


# ---- the configuration ------------------------------------------------------------------------------------


def files_of(group: str) -> str:
    """What there is to choose in a group, a user's own too."""
    return ", ".join(sorted(path.stem for path in (PROJECT / "conf" / group).glob("*.yaml") if path.stem != "base"))


CONFIG = [
    # composing
    ("train", ["+experiment=nope"], f"no experiment 'nope'; there are: {files_of('experiment')}"),
    ("train", ["experiment=digit"], "no experiment 'digit'; did you mean digits; there are: "),
    ("train", ["+experimant=digits"], "no group 'experimant'; did you mean +experiment"),
    ("train", [DIGITS, "+callbacks=mistakes"], "write callbacks=mistakes to take its place, or callbacks=[default,mis"),
    ("train", [DIGITS, "scheduler.warmup=abc"], "scheduler.warmup: `abc` is not a duration"),
    ("train", [DIGITS, "optimizer.nesterov=3"], "optimizer.nesterov=3 is neither true nor false"),
    ("train", [DIGITS, "model.network.channels=[-3]"], "cnn for model.network: Trying to create tensor with negative"),
    ("train", ["+experiment=null"], "a group takes the name of one of its files, not null"),
    ("train", [DIGITS, "nope=1"], "no key 'nope' in the configuration"),
    ("train", [DIGITS, "data.nope=1"], "no key 'nope' in data; data has: "),
    ("train", [DIGITS, "data.batch_size=[1"], "cannot read the override 'data.batch_size=[1'"),
    ("train", [DIGITS, "data._target_=metronome.data.Nope"], "metronome.data.Nope"),
    ("train", [DIGITS, "+data.nope=1"], "unexpected keyword argument 'nope'"),
    ("train", [DIGITS, "+callbacks.mine.x=1"], "callbacks.mine has no _target_"),
    ("train", [DIGITS, "data._target_=torch.nn.Identity"], "data must make a LightningDataModule"),
    ("train", [DIGITS, "trainer.max_epochs=${nope}"], "nope"),
    # units
    ("train", [DIGITS, "data.batch_size=0"], "data.batch_size=0 is not a number of samples"),
    ("train", [DIGITS, "data.batch_size=1258"], "larger than the 1,257 training samples; use data.batch_size=full"),
    ("train", [DIGITS, "trainer.accumulate_grad_batches=65"], "use at most 64"),
    ("train", [DIGITS, "budget=500"], "has no unit; add one, e.g. `500 steps`"),
    (
        "train",
        [DIGITS, "budget=500steps", "trainer.max_epochs=3"],
        "two budgets: budget=500steps and trainer.max_epochs=3",
    ),
    ("train", [DIGITS, "scheduler=cosine", "scheduler.warmup=100%"], "make it shorter"),
    (
        "train",
        [DIGITS, "budget=90 s"],
        "scheduler=onecycle must know the end; give the budget in epochs, steps or samples",
    ),
    (
        "train",
        [DIGITS, "trainer.val_check_interval=50"],
        "val_check_interval=50 is more than the 20 steps of an epoch",
    ),
    ("train", [DIGITS, "trainer.limit_train_batches=0"], "the training has no step"),
    ("train", [LINEAR, "data.noise=abc"], "data.noise='abc'"),
    ("train", [DIGITS, "model.label_smoothing=2"], "model.label_smoothing=2"),
    ("train", [DIGITS, "~model"], "model has no _target_ to make"),
    # machine
    ("train", [DIGITS, "trainer=ddp_cpu", "trainer.devices=9999"], "trainer.devices=9999 processes are more than"),
    ("train", [DIGITS, "trainer.devices=2", "trainer.strategy=ddp_spawn"], "use trainer.strategy=ddp"),
    ("train", [DIGITS, "trainer.accelerator=nope"], "nope"),
    ("train", [DIGITS, "trainer.limit_train_batches=2.5"], "invalid value 2.5 for limit_train_batches"),
    ("train", [DIGITS, "optimizer.lr=-1"], "optimizer SGD: Invalid learning rate: -1"),
    ("train", [DIGITS, "optimizer.lr=fast"], "optimizer.lr='fast' is not a finite number"),
    ("train", [DIGITS, "trainer.max_epochs=many"], "trainer.max_epochs='many' is not a whole number"),
    ("train", [DIGITS, "trainer.devices=0"], "trainer.devices=0"),
    # data and model
    ("train", [DIGITS, "model.network.num_outputs=12"], "the network has 12 outputs"),
    ("train", [LINEAR, "callbacks.checkpoint.monitor=val/nope"], "add callbacks.checkpoint.mode=min or "),
    ("train", [LINEAR, "monitor=val/foo"], "cannot be told from its name; add mode=min or mode=max"),
    ("train", [LINEAR, "monitor=val/nope", "mode=min"], "monitor=val/nope is not logged; there is: train/loss, "),
    ("train", [LINEAR, "mode=up"], "mode=up is neither min nor max"),
    # plan
    ("plan", [DIGITS, "format=xml"], "use format=text or format=json"),
]
MORE_CONFIG = [
    ("train", ["+experiment="], "no experiment ''; there are: decay, digits, "),
    ("train", [DIGITS, "optimizer=nope"], "no optimizer 'nope'; there are: adam, adamw, "),
    ("train", [DIGITS, "model._target_=torch.nn.Identity"], "model must make a LightningModule"),
    ("train", [DIGITS, "trainer=ddp_cpu", "trainer.accumulate_grad_batches=33"], "use at most 32"),
    ("train", [DIGITS, "num_threads=0"], "num_threads=0"),
    ("train", [DIGITS, "seed=half"], "seed='half'"),
    ("train", [DIGITS, "data.batch_growth=2"], "data.batch_growth=2 is not a table of keys and values"),
    ("train", [LINEAR, "data.num_samples=2.5"], "data.num_samples=2.5"),
    ("train", [DIGITS, "data.shuffle=maybe"], "data.shuffle='maybe' is neither true nor false"),
    ("train", [DIGITS, "data.num_workers=abc"], "data.num_workers='abc'"),
    ("train", [DIGITS, "trainer.compile=foo"], "trainer.compile=foo is no backend"),
    ("train", [DIGITS, "scheduler=cosine", "scheduler.final=abc"], "scheduler.final='abc'"),
    ("train", [DIGITS, "data=null"], "a group takes the name of one of its files"),
    ("train", [DIGITS, "hydra.run.dir=/proc/x"], "/proc/x: "),
    ("train", [LINEAR, "model=mlp"], "labels are whole numbers, and these are torch.float32"),
    ("train", [LINEAR, "data.num_samples=0"], "data.num_samples=0"),
    ("train", [LINEAR, "model.network.num_outputs=2"], "the network's outputs have shape"),
    ("plan", [DIGITS, "data.batch_size=5000"], "larger than the 1,257 training samples"),
]
# Added to a job as small as they come.
FLAGS = [
    # composing
    (["optimizer.lr=${nope:3}"], "optimizer.lr: Unsupported interpolation type nope"),
    (["~nope"], "'nope' does not exist"),
    (["seed=0,1"], "seed=0,1 is several values: add -m for a run with each, or write"),
    (["+experiment=digits"], "Multiple values for experiment"),
    (["-m", "seed=0,1", "hydra.sweep.dir=${nope}"], "hydra.sweep.dir refers to a key that is not there"),
    (["--nope"], "unrecognized arguments: --nope; --help shows what there is to give"),
    (["--config-dir=nope"], "nope' not found"),
    (["hydra.job.name=a/b"], "a/b.log: No such file or directory"),
    # how to go on
    (["ckpt_path=last"], "no run in runs/linear has a checkpoint"),
    # the trainer
    (["trainer.on_nonfinite=maybe"], "trainer.on_nonfinite=maybe is not known; use stop, skip or ignore"),
    (["trainer.limit_val_batches=-1"], "invalid value -1 for limit_val_batches"),
    (["trainer.devices=some"], "trainer.devices=some is not a number of devices"),
    (["trainer.num_nodes=2"], "nothing says where the first node is; start with torchrun or srun"),
    (["trainer.strategy=dpp"], "invalid strategy name: `strategy='dpp'`"),
    (["trainer.precision=16bit"], "Precision '16bit' is invalid"),
    # callbacks and loggers
    (["callbacks.checkpoint.save_last_every=0steps"], "save_last_every=0steps must be"),
    (["callbacks.checkpoint.save_last=false"], "beside save_last=true; for example '10 min', or null"),
    (["callbacks.checkpoint.mode=up"], "`mode` can be min, max but got up"),
    (["callbacks.checkpoint.filename='{epoch'"], "filename='{epoch' is no name"),
    (
        ["+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/nope, mode: min}"],
        "Early stopping conditioned on metric `val/nope` which is not available",
    ),
    (
        ["+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/nope}"],
        "add +callbacks.stop.mode=min or +callbacks.stop.mode=max",
    ),
    (["callbacks=early_stopping", "callbacks.early_stopping.patience=0"], "patience=0"),
    # the rest
    ([f"seed={10**12}"], f"seed={10**12} is not a whole number from 0 to 4,294,967,295"),
    (["num_threads=many"], "num_threads='many' is not a whole number or null"),
    (["test=maybe"], "test='maybe' is neither true nor false"),
    ([f"data.num_samples={10**15}"], "out of memory outside of a step"),
    (["model.network=null"], "model.network must make an nn.Module, and it makes a NoneType"),
    (["~optimizer"], "model.optimizer is a dict and cannot be called; its file needs _target_"),
]
MORE_FLAGS = [
    (["optimizer.lr=${"], "cannot read the override 'optimizer.lr=${'"),
    (["data.batch_growth={factor: 2, every: 5 epochs"], "with quotes around a value of many words"),
    (["logger=nope"], f"no logger 'nope'; there are: {files_of('logger')}"),
    (["ckpt_path=5"], "checkpoint 5 is not there"),
    (["callbacks.checkpoint.save_last_every=10%"], "save_last_every=10% must be"),
    (["+callbacks.checkpoint.save_top_k=all"], "save_top_k='all' is not a whole number"),
    (["callbacks.checkpoint._target_=torch.nn.Identity"], "callbacks.checkpoint must make a Callback"),
    (["optimizer.lr=${optimizer.lr}"], "optimizer.lr: Recursive interpolation detected"),
    (["optimizer.lr=???"], "optimizer.lr: Missing mandatory value"),
    (["lr 0.1"], "cannot read the override 'lr 0.1'; write key=value"),
    (["data.batch-size=3"], "no key 'batch-size' in data"),
    (["+data.batch_size=3"], "Could not append to config"),
    (["logger=wandb"], "wandb"),
    (["hydra/launcher=nope", "-m", "seed=0,1"], "no hydra/launcher 'nope'"),
    (["hydra/launcher=rayy", "-m", "seed=0,1"], "pip install -e '.[ray]'"),
    (["data.batch_growth=[1,2]"], "data.batch_growth has names and values, and takes no list"),
    (["hydra/sweeper=nope", "-m", "seed=0,1"], "no hydra/sweeper 'nope'"),
    (["-m", "optimizer=sgd,nope"], "no optimizer 'nope'"),
    (["-m", "seed=range(0,x)"], "cannot read the override 'seed=range(0,x)'"),
    (["-m", "seed=0,1", "hydra.sweep.dir=/proc/x"], "/proc/x: No such file or directory"),
    (["--lr=0.1"], "unrecognized arguments: --lr=0.1"),
    (["--config-name=nope"], "Cannot find primary config 'nope'"),
    (["ckpt_path=[a]"], "checkpoint ['a'] is not there"),
    (["trainer.limit_test_batches=1.5"], "invalid value 1.5 for limit_test_batches"),
    (["trainer.gradient_clip_val=1", "trainer.gradient_clip_algorithm=hard"], "hard is invalid"),
    (["trainer.max_time=soon"], "is not a valid duration"),
    (["trainer.val_check_interval=-1"], "invalid value -1 for val_check_interval"),
    (["trainer.devices=[]"], "trainer.devices=[] is not a number of devices"),
    (["trainer.devices='99'"], "trainer.devices=99 processes are more than"),
    (["trainer.strategy=fsdp"], "The strategy `fsdp` requires a GPU"),
    (["trainer.profiler=smiple"], "it can only be one of ['simple', 'advanced', 'pytorch', 'xla']"),
    (["+trainer.nope=1"], "unexpected keyword argument 'nope'"),
    (["callbacks.checkpoint.save_last_every=soon"], "`soon` is not a duration"),
    (["callbacks.checkpoint.save_last=maybe"], "save_last='maybe' is neither true nor false"),
    (["+callbacks.checkpoint.save_top_k=-5"], "save_top_k=-5"),
    (["+logger.mine={_target_: torch.nn.Identity}"], "logger.mine must make a Logger"),
    (["data.data_seed=x"], "data.data_seed='x' is not a whole number"),
    (["model.network.num_inputs=-1"], "cannot make project.models.perceptron.linear for network"),
    (["+model.compile=true"], "model.compile=True is no more; use trainer.compile=True, and model.compile=false"),
    (["trainer.compile=5"], "trainer.compile=5 is neither true nor false"),
    (["model=mlp", "model.num_classes=0"], "model.num_classes=0 is not a number of classes"),
    (["model=mlp", "model.label_smoothing=x"], "model.label_smoothing=x is not a part from 0 to 1"),
    (["scheduler._target_=torch.optim.lr_scheduler.StepLR"], "scheduler StepLR: "),
]


@pytest.mark.parametrize(("script", "arguments", "words"), named(CONFIG, MORE_CONFIG))
def test_configuration(script: str, arguments: list[str], words: str, commands: Commands) -> None:
    told(commands(script, "trainer.accelerator=cpu", *arguments), words)


@pytest.mark.parametrize(("arguments", "words"), named(FLAGS, MORE_FLAGS))
def test_flag(arguments: list[str], words: str, commands: Commands) -> None:
    told(commands("train", *TINY, "trainer=cpu", *arguments), words)


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("evaluate", [], "the following arguments are required: checkpoint; --help"),
        ("export", [], "the following arguments are required: checkpoint, --to; --help"),
        ("evaluate", ["x.ckpt", "--nope"], "unrecognized arguments: --nope"),
        ("benchmark", ["--steps=x"], "argument --steps: invalid int value: 'x'"),
        ("benchmark", ["--steps=0"], "--steps=0 is not a number of steps from 1 up"),
    ],
)
def test_other_scripts(script: str, arguments: list[str], words: str, commands: Commands) -> None:
    told(commands(script, *arguments), words)


# A file in a folder of one's own, its text, and how it is chosen.
OWN_FILES = [
    ("optimizer/bad.yaml", "_target_: torch.optim.SGD\n  lr: [1\n", "optimizer=bad", "bad.yaml, line 2: mapping"),
    ("optimizer/bad.yaml", "a: b: c\n", "optimizer=bad", "bad.yaml, line 1: mapping values are not allowed here"),
    ("optimizer/bad.yaml", "lr: 1\nlr: 2\n", "optimizer=bad", "bad.yaml, line 2: found duplicate key lr"),
    ("optimizer/bad.yaml", "", "optimizer=bad", "model.optimizer is a dict and cannot be called"),
    ("optimizer/bad.yaml", "name: caf\xe9\n", "optimizer=bad", "'utf-8' codec can't decode"),
    ("optimizer/bad.yaml", "_target_: torch.optim.SGD\nlr: 1\n", "optimizer=bad", "missing 1 required positional"),
    ("experiment/bad.yaml", "defaults:\n  - override /modle: cnn\n", BAD, "write +modle="),
    ("experiment/bad.yaml", "defaults:\n  - override /model: nope\n", BAD, "no model 'nope'; there are: cnn, "),
    ("experiment/bad.yaml", "defaults:\n  - /model: mlp\n", BAD, "use 'override model: mlp'"),
    ("experiment/bad.yaml", "defaults: 5\n", BAD, "defaults must be a list"),
    ("experiment/bad.yaml", "data:\n  batch_size: ${nope}\n", BAD, "data.batch_size refers to a key that is not"),
]
MORE_OWN_FILES = [
    ("optimizer/bad.yaml", "a: 1\n\tlr: 1\n", "optimizer=bad", "bad.yaml, line 2: "),
    ("optimizer/bad.yaml", "- a\n- b\n", "optimizer=bad", "Cannot merge DictConfig with ListConfig"),
    ("optimizer/bad.yaml", "words\n", "optimizer=bad", "model.optimizer is a dict and cannot be called"),
    ("optimizer/bad.yaml", "_target_: torch.optim.SDG\n", "optimizer=bad", "cannot make torch.optim.SDG"),
    ("experiment/bad.yaml", "defaults:\n  - nope\n", BAD, "Could not load 'experiment/nope'"),
    ("experiment/bad.yaml", "data: 5\n", BAD, "data has no _target_ to make"),
    ("experiment/bad.yaml", "data:\n  batchsize: 3\n", BAD, "unexpected keyword argument 'batchsize'"),
]


@pytest.mark.parametrize(("file", "text", "argument", "words"), named(OWN_FILES, MORE_OWN_FILES))
def test_a_file_of_ones_own(file: str, text: str, argument: str, words: str, commands: Commands) -> None:
    path = commands.folder / "own" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(("# @package _global_\n" * (argument == BAD) + text).encode("latin1"))
    told(commands("train", *(() if argument == BAD else TINY), "trainer=cpu", OWN, argument), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed=0,x"], "failed: seed='x' is not a whole number"),
        (["data.batch_size=8,0"], "failed: data.batch_size=0 is not a number of samples"),
        pytest.param(["seed=0,1", "hydra.sweep.subdir=same"], "failed: the folder ", marks=pytest.mark.slow),
        (["ckpt_path=nope.ckpt"], "failed: checkpoint nope.ckpt is not there"),
        pytest.param(["optimizer.lr=0.1,1e30"], "failed: the loss is not finite", marks=pytest.mark.slow),
    ],
)
def test_a_job_of_a_sweep(arguments: list[str], words: str, commands: Commands) -> None:
    """The others are done."""
    done = commands("train", *TINY, "trainer=cpu", "-m", *arguments)
    assert done.code == 1
    (line,) = [line for line in done.jobs if "failed" in line]
    assert words in line
    assert "Traceback" not in done.out + done.err
    whole(done.folder)
    assert [result["status"] for result in done.results].count("finished") == len(arguments[0].split(",")) - 1


# ---- the data and the model -------------------------------------------------------------------------------

THEIRS = '''
"""Data and models as users write them, with a mistake each."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import Dataset, IterableDataset

from metronome.data import Splits
from project.data import Linear
from metronome.models import Classifier, Regressor

X, Y = torch.randn(64, 10), torch.arange(64) % 4
MISSING = X.clone()
MISSING[40, 3] = float("nan")


def missing_file(i):
    return open("/nowhere/picture.png")


def broken(i):
    return {}["no such picture"]


class Samples(Dataset):
    """Good ones, but for the sixth."""

    def __init__(self, sixth):
        self.sixth = sixth

    def __len__(self):
        return 64

    def __getitem__(self, i):
        return self.sixth(i) if i == 5 else (X[i], Y[i])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])])


def all_of(x, y):
    return Splits((x, y), (x, y), (x, y))


LOADED = {
    "good": lambda: all_of(X, Y),
    "a missing value": lambda: all_of(MISSING, Y),
    "an infinite value": lambda: all_of(MISSING.nan_to_num(float("inf")), Y),
    "five classes": lambda: all_of(X, Y + 1),
    "five classes to validate": lambda: Splits((X, Y), (X, Y + 1)),
    "a class below 0": lambda: all_of(X, Y - 1),
    "labels as float": lambda: all_of(X, Y.float()),
    "labels in a column": lambda: all_of(X, Y[:, None]),
    "labels one-hot": lambda: all_of(X, one_hot(Y)),
    "wide rows": lambda: all_of(torch.randn(64, 12), Y),
    "images": lambda: all_of(torch.randn(64, 3, 8, 8), Y),
    "bytes": lambda: all_of((X * 9).to(torch.uint8), Y),
    "nothing": lambda: all_of(X[:0], Y[:0]),
    "nothing to validate": lambda: Splits((X, Y), (X[:0], Y[:0])),
    "no training": lambda: Splits(None, (X, Y)),
    "unequal columns": lambda: Splits((X, Y[:60])),
    "None": lambda: None,
    "a number": lambda: 5,
    "two splits": lambda: ((X, Y), (X, Y)),
    "a text": lambda: Splits("train.csv"),
    "a list of texts": lambda: Splits(["a"] * 64),
    "texts in an array": lambda: Splits((np.array(["a"] * 64), Y)),
    "objects in an array": lambda: Splits((np.array([None] * 64), Y)),
    "inputs alone": lambda: Splits(X),
    "three columns": lambda: Splits((X, Y, Y)),
    "columns by name": lambda: Splits({"x": X, "y": Y}),
    "a stream": lambda: Splits(Stream()),
    "a missing file": lambda: open("/nowhere/train.csv"),
    "a sample of a missing file": lambda: Splits(Samples(missing_file)),
    "a sample of text": lambda: Splits(Samples(lambda i: ("a picture", Y[i]))),
    "a sample of nothing": lambda: Splits(Samples(lambda i: None)),
    "a shorter sample": lambda: Splits(Samples(lambda i: (X[i][:7], Y[i]))),
    "samples of text": lambda: Splits([("a", 1)] * 64),
    "a bug": lambda: {}["nope"],
    "a sample with a bug": lambda: Splits(Samples(broken)),
}


class Theirs(Linear):
    def __init__(self, given, **options):
        super().__init__(**options)
        self.given = given

    def load(self):
        return LOADED[self.given]()


class Manual(Regressor):
    def __init__(self, **options):
        super().__init__(**options)
        self.automatic_optimization = False


class NoStep(Regressor):
    training_step = None


class Plain(Classifier):
    """One that looks at nothing itself."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch

    def loss_and_outputs(self, batch):
        outputs = self(batch[0])
        return cross_entropy(outputs, batch[1]), outputs


def images(num_inputs, num_outputs, hidden, dropout):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(num_inputs, num_outputs))
'''
SIZES = ("model=mlp", "model.network.num_inputs=10", "model.num_classes=4")
DATA = [
    ("a missing value", [], "the loss is not finite in step 4 (epoch 1): loss nan"),
    ("five classes", [], "label 4 is out of range: the model has 4 classes, 0 to 3"),
    ("labels as float", [], "labels are whole numbers, and these are torch.float32"),
    ("images", [], "mat1 and mat2 shapes cannot be multiplied (10x192 and 10x128); model and data must fit"),
    ("good", ["model.network._target_=theirs.images"], "Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1)) does not"),
    ("samples of text", [], "does not take input of type tuple"),
    ("five classes", ["model._target_=theirs.Plain"], "target (10,) int64: Target 4 is out of bounds"),
    ("nothing", [], "the training data set of Theirs is empty"),
    ("unequal columns", [], "must be equally long, and these have lengths [64, 60]"),
    ("None", [], "Theirs.load() must return Splits(train, val, test), and returns a NoneType"),
    ("texts in an array", [], "a column of a data set must hold numbers, and this one holds text ('a'); encode it"),
    ("columns by name", [], "and this is a dict"),
    ("a missing file", [], "/nowhere/train.csv: No such file or directory"),
    ("a sample of a missing file", [], "sample 5: /nowhere/picture.png: No such file or directory"),
    ("a sample of a missing file", ["data.num_workers=1"], "sample 5: /nowhere/picture.png: No such file"),
    ("a sample of text", [], "of Samples do not make a batch"),
]
MORE_DATA = [
    ("labels one-hot", [], "of shape (10, 4); bring them to it with .long(), .flatten() or .argmax(dim=1)"),
    ("wide rows", [], "Linear(in_features=10, out_features=128, bias=True) does not take input (10, 12) float32"),
    ("nothing to validate", [], "the validation data set of Theirs is empty"),
    ("two splits", [], "and returns a tuple of 2"),
    ("a sample of nothing", [], "of Samples do not make a batch"),
    ("an infinite value", [], "the loss is not finite in step 4"),
    ("five classes to validate", [], "label 4 is out of range"),
    ("a class below 0", [], "label -1 is out of range"),
    ("labels in a column", [], "of shape (10, 1); bring them to it with .long(), .flatten()"),
    ("images", ["model.network._target_=theirs.images"], "Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1)) does not"),
    ("images", ["model.network._target_=theirs.images", "+debug=layout"], "Conv2d(1, 4, kernel_size=(3, 3), stride"),
    ("bytes", [], "does not take input (10, 10) uint8"),
    ("good", ["model.network.num_outputs=5"], "the network has 5 outputs and the model 4 classes"),
    ("no training", [], "Theirs has no training data set"),
    ("a number", [], "and returns a int"),
    ("a text", [], "a data set must be a map-style Dataset"),
    ("a list of texts", [], "takes batches of inputs and a tensor of labels or targets, and this is a list of str"),
    ("objects in an array", [], "must hold numbers, and this one holds object"),
    ("inputs alone", [], "a tensor of labels or targets, and this is a Tensor"),
    ("three columns", [], "and this is a tuple of Tensor, Tensor, Tensor"),
    ("a stream", [], "a data set must be a map-style Dataset (with __len__ and __getitem__)"),
    ("a sample of text", ["data.num_workers=1"], "of Samples do not make a batch"),
    ("a shorter sample", [], "each must have the same parts, of the same shapes"),
    ("good", ["data.batch_size=65"], "larger than the 64 training samples; use data.batch_size=full"),
    ("good", ["+data.pin_memory=x"], "data.pin_memory='x' is neither true nor false"),
]


@pytest.fixture
def theirs(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of a user."""
    (commands.folder / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(commands.folder)
    yield
    sys.modules.pop("theirs", None)


def with_data(given: str) -> tuple[str, ...]:
    return (*TINY, "trainer=cpu", *SIZES, "data._target_=theirs.Theirs", f"+data.given='{given}'")


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(("given", "arguments", "words"), named(DATA, MORE_DATA))
def test_data(given: str, arguments: list[str], words: str, commands: Commands) -> None:
    told(commands("train", *with_data(given), *arguments), words, code=1 if "not finite" in words else 2)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model._target_=theirs.NoStep"], "No `training_step()` method defined"),
        (["model._target_=theirs.Manual", "trainer.accumulate_grad_batches=auto"], "Manual optimizes manually"),
    ],
)
def test_model(arguments: list[str], words: str, commands: Commands) -> None:
    told(commands("train", *TINY, "trainer=cpu", *arguments), words)


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize(
    ("given", "arguments", "words"),
    [
        ("a bug", [], "KeyError: 'nope'"),
        ("a sample with a bug", [], "KeyError: 'no such picture'"),
        ("a sample with a bug", ["data.num_workers=1"], "in sample 5 of Samples"),
    ],
)
def test_a_bug_of_ones_own_keeps_its_traceback(
    given: str, arguments: list[str], words: str, commands: Commands
) -> None:
    with pytest.raises(KeyError) as caught:
        commands("train", *with_data(given), *arguments)
    assert "theirs.py" in str(caught.value) or "theirs.py" in [Path(entry.path).name for entry in caught.traceback]
    assert words in "\n".join([f"KeyError: {caught.value}", *getattr(caught.value, "__notes__", [])])
    (result,) = commands.folder.glob("runs/**/result.json")
    assert json.loads(result.read_text())["status"] == "failed"
    whole(commands.folder)


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


def test_a_mistake_that_one_process_of_two_meets(tmp_path: Path) -> None:
    """The label that is out of range may lie in the second one's share alone."""
    wrong = ("model.num_classes=9", "model.network.num_outputs=9")
    done = run_forked(tmp_path, "train", DIGITS, "trainer=ddp_cpu", *wrong)
    told(done, "label 9 is out of range")


# ---- the machine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trainer", "instead"), [("gpu", "cpu"), ("ddp", "ddp_cpu"), ("fsdp", "fsdp_cpu")])
def test_a_gpu_that_is_not_there(trainer: str, instead: str, commands: Commands) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    told(commands("train", DIGITS, f"trainer={trainer}"), f"use trainer={instead}")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SLURM_NTASKS": "x", "SLURM_STEP_ID": "0"}, "the environment has SLURM_NTASKS=x, which is no whole number"),
        ({"SLURM_PROCID": "first"}, "the environment has SLURM_PROCID=first"),
        ({"LOCAL_RANK": "x"}, "the environment has LOCAL_RANK=x, which is no whole number; correct it, or unset it"),
        ({"RANK": "-1"}, "the environment has RANK=-1"),
        ({"WORLD_SIZE": ""}, "the environment has WORLD_SIZE=,"),
        ({"MASTER_PORT": "x"}, "the environment has MASTER_PORT=x"),
        ({"MASTER_PORT": "99999"}, "a port is at most 65535"),
        (
            {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
             "SLURM_JOB_NAME": "train"},
            "Use `--ntasks-per-node=4` instead",
        ),
    ],
)  # fmt: skip
def test_environment(
    environment: dict[str, str], words: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told(commands("train", *TINY, "trainer=cpu"), words)


def test_without(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, git, a name: it does without."""
    for name, value in {"HOME": "/nowhere", "PATH": "", "USER": ""}.items():
        monkeypatch.setenv(name, value)
    assert commands("train", *TINY, "trainer=cpu").code == 0


def test_a_variable_that_is_read_by_an_import(tmp_path: Path) -> None:
    """In a process of its own, whose warnings are on the terminal too."""
    told(run_apart(tmp_path, "train", *TINY, "trainer=cpu", LOCAL_RANK="x"), "the environment has LOCAL_RANK=x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is full")
def test_what_a_terminal_shows(tmp_path: Path) -> None:
    """With its warnings, and with a log that cannot be written."""
    a_file(tmp_path / "mine/made.txt")
    (tmp_path / "mine/train.log").symlink_to("/dev/full")
    done = run_forked(tmp_path, "train", *TINY, "trainer=cpu", "model.network.num_inputs=7", "hydra.run.dir=mine")
    told(done, "Linear(in_features=7, out_features=1, bias=True) does not take input (10, 10) float32")


# ---- files and folders ------------------------------------------------------------------------------------


def a_file(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("prepare", "arguments", "words", "code"),
    [
        (lambda here: a_file(here / "mine"), ["hydra.run.dir=mine"], "mine: File exists", 2),
        (lambda here: a_file(here / "mine"), ["hydra.run.dir=mine/run"], "mine/run: Not a directory", 2),
        (lambda here: a_file(here / "runs"), [], "Not a directory", 2),
        (lambda here: None, [f"hydra.run.dir={'x' * 300}"], "File name too long", 2),
        (lambda here: (here / "mine/train.log").mkdir(parents=True), ["hydra.run.dir=mine"], "train.log: Is a dir", 2),
        (lambda here: (here / "mine/.lock").mkdir(parents=True), ["hydra.run.dir=mine"], ".lock: Is a directory", 2),
        (
            lambda here: a_file(here / "mine/checkpoints"),
            ["hydra.run.dir=mine"],
            "could not be written (File exists",
            1,
        ),
        (lambda here: a_file(here / "mine/config.yaml", "{"), ["hydra.run.dir=mine"], "holds a run already", 2),
        (
            lambda here: a_file(here / "mine/config.yaml", "overrides: [seed=5]\n"),
            ["hydra.run.dir=mine", "resume=auto"],
            "the folder mine holds a",
            2,
        ),
        (
            lambda here: a_file(here / "runs/linear/1/config.yaml", "{"),
            ["ckpt_path=last"],
            "no run in runs/linear has a checkpoint",
            2,
        ),
        (
            lambda here: [a_file(here / f"runs/linear/1/{name}", "{") for name in ("config.yaml", "last.ckpt")],
            ["ckpt_path=last"],
            "no checkpoint in runs/linear/1 is whole",
            2,
        ),
    ],
)
def test_folder(
    prepare: Callable[[Path], object], arguments: list[str], words: str, code: int, commands: Commands
) -> None:
    prepare(commands.folder)
    done = commands("train", *TINY, "trainer=cpu", *arguments)
    assert (done.code, done.err.count("\n"), "Traceback" in done.out) == (code, 1, False)
    assert done.err.startswith("error: ")
    assert words in done.err
    assert not list(done.folder.rglob("*.part"))


def test_a_result_that_is_garbled(commands: Commands) -> None:
    """Then the run has not ended, and goes on."""
    job = (*TINY, "trainer=cpu", "hydra.run.dir=mine")
    assert commands("train", *job).code == 0
    (commands.folder / "mine/result.json").write_text('{"status": "fin')
    done = commands("train", *job, "resume=auto")
    assert done.code == 0, done.err
    whole(done.folder)
    assert json.loads((commands.folder / "mine/result.json").read_text())["status"] == "finished"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_to_be_written(commands: Commands) -> None:
    (commands.folder / "runs").mkdir(mode=0o500)
    told(commands("train", *TINY, "trainer=cpu"), "Permission denied")


def test_a_folder_in_which_another_process_works(commands: Commands) -> None:
    (commands.folder / "mine").mkdir()
    with a_process_in(commands.folder / "mine"):
        told(commands("train", *TINY, "trainer=cpu", "hydra.run.dir=mine"), "another process works in the folder mine")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is full")
@pytest.mark.parametrize(
    ("name", "words", "code", "status"),
    [
        ("config.yaml", "config.yaml: No space left on device", 1, None),
        ("plan.json", "plan.json: No space left on device", 1, "failed"),
        ("last.ckpt", "last.ckpt could not be written (No space left on device); what was there before", 1, "failed"),
        ("result.json", "result.json: No space left on device", 1, None),
    ],
)
def test_a_full_disk(
    name: str, words: str, code: int, status: str | None, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        if path.name != f"{name}.part":
            return open(path, mode, **options)
        path.write_text("half of it")
        return open("/dev/full", mode, **options)

    monkeypatch.setattr("metronome.training.checkpoints.files.open", full, raising=False)
    done = commands("train", *TINY, "trainer=cpu", "hydra.run.dir=runs/mine")
    assert (done.code, done.err.count("\n"), "Traceback" in done.out) == (code, 1, False)
    assert words in done.err
    whole(done.folder)
    assert [result["status"] for result in done.results] == ([status] if status else [])


# ---- checkpoints ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


EACH = (
    "+callbacks.each={_target_: metronome.training.Checkpoint, dirpath: '${run_dir}/each', filename: '{step}', "
    "every_n_train_steps: 3, save_top_k: -1}"
)


@pytest.fixture
def trained(kept: Path, commands: Commands) -> Path:
    """A folder with runs of three epochs, made once."""
    for name, options in (
        ("sgd", [EACH]),
        ("adam", ["optimizer=adam"]),
        ("mlp", ["model.network._target_=project.models.mlp", "+model.network.hidden=[4]"]),
        ("weights", ["+callbacks.checkpoint.save_weights_only=true"]),
    ):
        if not (kept / name).is_dir():
            made = Commands(kept, commands.monkeypatch, commands.capfd)
            options = [*TINY, "trainer=cpu", "trainer.max_epochs=3", f"hydra.run.dir={name}", *options]
            assert made("train", *options).code == 0
    return kept


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("exploded"),)


def copy(name: str) -> Callable[[Path, Path], object]:
    return lambda trained, path: shutil.copy(trained / name, path)


def damaged(damage: Callable[[bytes], bytes]) -> Callable[[Path, Path], object]:
    return lambda trained, path: path.write_bytes(damage((trained / "sgd/checkpoints/last.ckpt").read_bytes()))


def bytes_of(content: bytes) -> Callable[[Path, Path], object]:
    return lambda trained, path: path.write_bytes(content)


def other(change: Callable[[dict[str, Any]], Any], name: str = "sgd/checkpoints/last.ckpt") -> Any:
    """A checkpoint with a change made to it; where that gives something, this in its place."""

    def make(trained: Path, path: Path) -> None:
        checkpoint = torch.load(trained / name, weights_only=True)
        torch.save(change(checkpoint) or checkpoint, path)

    return make


def put(*keys: str, value: object = None) -> Any:
    """A checkpoint with another value somewhere, or without it."""

    def change(checkpoint: dict[str, Any]) -> None:
        for key in keys[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[keys[-1]] = value
        if value is None:
            del checkpoint[keys[-1]]

    return other(change)


def a_zip(trained: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.txt", "no checkpoint")


def beginning(part: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(part * len(content))]


def zeros(part: float) -> Callable[[bytes], bytes]:
    """256 bytes lost, as a machine that loses its power may leave them: more than the padding before a tensor."""

    def damage(content: bytes) -> bytes:
        at = int(part * len(content))
        return content[:at] + bytes(256) + content[at + 256 :]

    return damage


CYCLE = ("~scheduler.warmup", "+scheduler.max_lr=1", "+scheduler.cycle_momentum=false")
LOOP = ("loops", "fit_loop", "epoch_loop.state_dict")
MORE = ["trainer.max_epochs=4"]
# How the file comes about, what else is given, and what training, and what an evaluation, have to say to it.
CHECKPOINTS = [
    (lambda trained, path: None, [], "checkpoint x.ckpt is not there", "checkpoint x.ckpt is not there"),
    (bytes_of(b""), [], "cannot be read as plain data: it is empty", "it is empty"),
    (damaged(beginning(0.5)), [], "it is no checkpoint, or a damaged one", "damaged one"),
    (bytes_of(pickle.dumps(Bomb())), [], "cannot be read as plain data", "cannot be read as plain data"),
    (other(lambda c: {"state_dict": Bomb()}), [], "Unsupported global: GLOBAL", "Unsupported global: GLOBAL"),
    (other(lambda c: c["state_dict"]), [], "it has no state_dict", "it has no state_dict"),
    (copy("weights/checkpoints/last.ckpt"), [], "holds weights only, and no training can", "or of weights only"),
    (put("state_dict", "network.1.weight"), [], "it lacks network.1.weight", "it lacks network.1.weight"),
    (
        put("state_dict", "network.1.weight", value=torch.ones(3, 7)),
        [],
        "of another model: network.1.weight has shape (3, 7) there and (1, 10) here",
        "of another model: network.1.weight has shape (3, 7) there and (1, 10) here",
    ),
    (put("state_dict", "network.1.weight", value=torch.full((1, 10), torch.nan)), [], "the loss is not finite", None),
    # of another training
    (copy("adam/checkpoints/last.ckpt"), [], "torch.optim.SGD, and the checkpoint has torch.optim.Adam", None),
    (copy("sgd/checkpoints/last.ckpt"), ["scheduler=onecycle"], "scheduler._target_=", None),
    (
        other(lambda c: c.pop("metronome") and None, "adam/checkpoints/last.ckpt"),
        [],
        "it was written with another optimizer or scheduler: it has no dampening, momentum, which SGD needs",
        "made elsewhere",
    ),
    (
        copy("sgd/checkpoints/last.ckpt"),
        ["trainer.max_epochs=2"],
        "is of epoch 3, and this run ends with epoch 2",
        None,
    ),
    (copy("sgd/each/step=18.ckpt"), ["data.batch_size=8"], "with batch_size=10, and this run has batch_size=8", None),
    # parts of it gone, or not what they must be
    (put("loops"), [], "loops is of type NoneType, not dict", None),
    (put("optimizer_states", value=[]), [], "the states of 0 optimizers, and this training 1", None),
    (put("metronome", value=5), [], "metronome is of type int, not dict", "no configuration where it belongs"),
]
MORE_CHECKPOINTS = [
    (lambda trained, path: path.mkdir(), [], "checkpoint x.ckpt is a folder", "checkpoint x.ckpt is a folder"),
    (bytes_of(b"no checkpoint"), [], "it is no checkpoint, or a damaged one", "no checkpoint, or a damaged one"),
    (bytes_of(random.Random(0).randbytes(5_000)), [], "it is no checkpoint, or a damaged one", "a damaged one"),
    (damaged(zeros(0.5)), [], "cannot be read as plain data", "cannot be read as plain data"),
    (other(lambda c: {"state_dict": c["state_dict"]}), [], "holds weights only", "made elsewhere, or of weights only"),
    (copy("sgd/checkpoints/last.ckpt"), ["optimizer=adam"], "and the checkpoint has torch.optim.SGD", None),
    (
        put("metronome"),
        ["scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", *CYCLE],
        "it has no max_lr, min_lr, which SGD needs here",
        None,
    ),
    (
        put("metronome"),
        ["scheduler._target_=torch.optim.lr_scheduler.StepLR", "~scheduler.warmup", "+scheduler.step_size=3"],
        "it was written with another scheduler: it has lr_lambdas and no gamma, step_size, which StepLR needs",
        None,
    ),
    (put("loops", "fit_loop", value={}), [], "it is of step 21, and its counters are at step 0", None),
    (put(*LOOP, "results"), [], "does not fit this training (KeyError: 'results')", None),
    (put("callbacks", value=5), [], "callbacks is of type int, not dict", None),
    *(
        (damaged(beginning(part)), [], "a damaged one", "a damaged one")
        for part in (0.0001, 0.001, 0.01, 0.1, 0.25, 0.75, 0.99)
    ),
    (damaged(lambda content: content[:-1]), [], "a damaged one", "a damaged one"),
    *((damaged(zeros(part)), [], "x.ckpt ", "x.ckpt ") for part in (0, 0.1, 0.3, 0.7, 0.9, 0.99)),
    (a_zip, [], "cannot be read as plain data", "cannot be read as plain data"),
    (other(lambda c: [1]), [], "a file of another kind: it has no state_dict", "it has no state_dict"),
    (put("state_dict", value=[1]), [], "it has no state_dict", "it has no state_dict"),
    (put("state_dict", "network.1.weight", value=5), [], "is of another model", "is of another model"),
    (put("state_dict", "w", value=torch.ones(1)), [], "it has in excess w", "it has in excess w"),
    (copy("mlp/checkpoints/last.ckpt"), [], "it has in excess network.3.weight and 1 more", None),
    (copy("sgd/checkpoints/last.ckpt"), ["optimizer.lr=0.5"], "optimizer.lr=0.5, and the checkpoint has 0.01", None),
    (put("metronome"), ["optimizer=adam"], "it has no betas, eps, which Adam needs here", None),
    (put("metronome"), ["model.scheduler=null"], "it has the states of 1 schedulers, and this training 0", None),
    (copy("sgd/each/step=18.ckpt"), ["trainer.max_epochs=2"], "is of epoch 3, and this run ends with epoch 2", None),
    (
        copy("sgd/checkpoints/last.ckpt"),
        ["trainer.max_epochs=-1", "trainer.max_steps=5"],
        "the checkpoint is of step 21, and this run ends with step 5; let it end later",
        None,
    ),
    (copy("sgd/each/step=18.ckpt"), ["seed=5"], "with seed=0, and this run has seed=5", None),
    (
        copy("sgd/each/step=18.ckpt"),
        ["data.num_samples=99"],
        "with num_samples=64, and this run has num_samples=99",
        None,
    ),
    (put("loops", value={}), [], "the state in it does not fit this training (KeyError: 'fit_loop')", None),
    (put(*LOOP, "rest", value="sleep"), [], "'sleep' is not a valid Phase", None),
    (put("optimizer_states"), [], "holds weights only", None),
    (put("optimizer_states", value=[{}]), [], "KeyError: 'param_groups'", None),
    (put("lr_schedulers"), [], "lr_schedulers is of type NoneType, not list", None),
    (put("lr_schedulers", value=[5]), [], "does not fit this training (TypeError", None),
    (put("global_step", value="x"), [], "global_step is of type str, not int", None),
    (put("pytorch-lightning_version"), [], "pytorch-lightning_version is of type NoneType, not str", None),
    (put("metronome", "logs", value=5), [], "metronome.logs is of type int, not dict", None),
    (put("metronome", "config", value=5), [], "metronome.config is of type int", "no configuration where it belongs"),
]


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    named([row[:3] for row in CHECKPOINTS], [row[:3] for row in MORE_CHECKPOINTS]),
)
def test_checkpoint(make: Any, arguments: list[str], words: str, trained: Path, commands: Commands) -> None:
    make(trained, commands.folder / "x.ckpt")
    done = commands("train", *TINY, "trainer=cpu", *MORE, "ckpt_path=x.ckpt", *arguments)
    told(done, words, code=1 if "not finite" in words else 2)


@pytest.mark.parametrize(
    ("make", "words"), named([(row[0], row[3]) for row in [*CHECKPOINTS, *MORE_CHECKPOINTS] if row[3] is not None])
)
def test_checkpoint_to_evaluate(make: Any, words: str, trained: Path, commands: Commands) -> None:
    make(trained, commands.folder / "x.ckpt")
    told(commands("evaluate", "x.ckpt"), words)


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        # in the file
        (lambda config: config.pop("data"), [], "its configuration has no data with a _target_ to make"),
        (lambda config: config["data"].update(_target_="os.system"), [], "data asks for os.system; allowed are"),
        (lambda config: config["data"].update(nope=1), [], "unexpected keyword argument 'nope'"),
        (lambda config: config["data"].update(num_features=7), [], "does not take input (10, 7) float32"),
        (lambda config: config["trainer"].update(precision="13"), [], "Precision '13' is invalid"),
        (lambda config: config["trainer"].update(limit_test_batches="x"), [], "limit_test_batches='x' is not a number"),
        (lambda config: config.update(seed="x"), [], "seed='x' is not a whole number"),
        # on the command line
        (None, ["nope=1"], "'nope=1' changes nothing in the checkpoint's configuration"),
        (None, ["data.batch_size"], "write key=value"),
        (None, ["data.batch_size=[1"], "cannot read 'data.batch_size=[1'"),
        (None, ["data.batch_size=${nope}"], "data.batch_size='${nope}' is not a number of samples"),
        (None, ["data.eval_batch_size=0"], "data.eval_batch_size=0 is not a number of samples"),
        (None, ["trainer.max_epochs=5"], "'trainer.max_epochs=5' has no meaning in an evaluation"),
        (None, ["trainer.deterministic=x"], "trainer.deterministic='x' is not true, false or warn"),
        (None, ["trainer.accelerator=nope"], "invalid accelerator name: `accelerator='nope'`"),
        (None, ["model.network.num_outputs=3"], "network.1.weight has shape (1, 10) there and (3, 10) here"),
        (None, ["model.network._target_=project.models.convolutional.nope"], "which cannot be had"),
        (None, ["allow=not a package"], "allow='not a package' is no package"),
    ],
)
def test_evaluation(
    change: Callable[[dict[str, Any]], object] | None,
    arguments: list[str],
    words: str,
    trained: Path,
    commands: Commands,
) -> None:
    def in_config(checkpoint: dict[str, Any]) -> None:
        if change is not None:
            change(checkpoint["metronome"]["config"])

    other(in_config)(trained, commands.folder / "x.ckpt")
    told(commands("evaluate", "x.ckpt", *arguments), words)


def test_what_a_newer_version_adds_is_passed_over(trained: Path, commands: Commands) -> None:
    def add(checkpoint: dict[str, Any]) -> None:
        for part in (checkpoint, checkpoint["metronome"], checkpoint["loops"]["fit_loop"], checkpoint["callbacks"]):
            part["newer"] = {}
        checkpoint["pytorch-lightning_version"] = checkpoint["metronome"]["version"] = "99.0"

    other(add)(trained, commands.folder / "x.ckpt")
    done = commands("train", *TINY, "trainer=cpu", *MORE, "ckpt_path=x.ckpt")
    assert (done.code, done.result["progress"]["steps"]) == (0, 28), done.err
    assert commands("evaluate", "x.ckpt").code == 0
