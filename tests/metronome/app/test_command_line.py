"""What is typed: plus signs, near names, types, --help, the names of folders."""

from copy import deepcopy
from pathlib import Path

import pytest
from commands import PROJECT, Commands
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from metronome.app.config.build import choose_budget
from metronome.app.config.types import check_types
from metronome.app.console.arguments import made_ready
from metronome.app.console.groups import files_by_group, what_it_is
from metronome.app.console.resolvers import MAX_NAME, register_resolvers, sweep_name, words_of_run
from metronome.app.errors.extras import how_to_install, missing_package
from metronome.units import InputError

SCRIPT = str(PROJECT / "scripts/train.py")


@pytest.mark.parametrize(
    ("typed", "ready"),
    [
        (["experiment=digits", "-m", "seed=0,1"], ["-m", "+experiment=digits", "seed=0,1"]),
        (["study=regime", "debug=fast"], ["+study=regime", "+debug=fast"]),
        (["+experiment=digits", "optimizer=adam"], ["+experiment=digits", "optimizer=adam"]),
        (["+experiment_of_mine.x=1", "+whatever=1"], ["+experiment_of_mine.x=1", "+whatever=1"]),
        (["ckpt_path=a/epoch=3.ckpt"], ["ckpt_path='a/epoch=3.ckpt'"]),
        (["x=1", "hydra/sweeper=optuna", "--help"], ["--help", "x=1", "hydra/sweeper=search"]),
    ],
)
def test_made_ready_for_hydra(typed: list[str], ready: list[str]) -> None:
    assert made_ready(typed, SCRIPT) == ready


def test_groups_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own/variant").mkdir(parents=True)
    (tmp_path / "own/variant/wide.yaml").write_text(
        "# @package _global_\n# Mine, with more of\n# it. Really.\nseed: 1\n"
    )
    assert made_ready([f"--config-dir={tmp_path}/own", "variant=wide"], SCRIPT)[1] == "+variant=wide"
    ((file,),) = files_by_group([tmp_path / "own"]).values()
    assert what_it_is(file) == "Mine, with more of it"


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("wandb", "pip install -e '.[loggers]'"),
        ("mlflow", "pip install -e '.[loggers]'"),
        ("optuna", "pip install -e '.[sweeps]'"),
        ("hydra_plugins.hydra_joblib_launcher", "pip install -e '.[sweeps]'"),
        ("somebody_elses.part", "pip install somebody_elses"),
    ],
)
def test_how_to_install(package: str, words: str) -> None:
    assert how_to_install(package) == words


def test_lightnings_words_for_a_package_that_is_not_there() -> None:
    told = "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U 'wandb>=0.12.10'`"
    assert missing_package(ModuleNotFoundError(told)) == "wandb"
    assert missing_package(ModuleNotFoundError("no", name="optuna")) == "optuna"
    assert missing_package(ImportError("cannot import name x")) is None


def test_the_last_of_several_overrides_counts() -> None:
    def limits(max_epochs: int | None, *overrides: str) -> dict[str, object]:
        config = {"budget": "500steps", "trainer": {"max_epochs": max_epochs, "max_steps": -1, "max_time": None}}
        choose_budget(config, list(overrides))
        return config["trainer"]  # pyright: ignore

    assert limits(None, "trainer.max_epochs=12", "trainer.max_epochs=null") == {}
    assert limits(10) == {}
    with pytest.raises(InputError, match=r"two budgets: budget=500steps and trainer\.max_epochs=12"):
        limits(12, "trainer.max_epochs=null", "trainer.max_epochs=12")


# ---- types --------------------------------------------------------------------------------------------------


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


@pytest.fixture(scope="module")
def digits() -> DictConfig:
    return composed("+experiment=digits", "scheduler=multistep")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1.5", "seed=1.5 is not a whole number"),
        ("budget=abc", "budget: `abc` is not a duration"),
        ("budget=500", "budget: `500` has no unit"),
        ("test_train_set=1", "test_train_set=1 is neither true nor false"),
        ("tags=a", r"tags='a' is not a list of words or null; write \[a\]"),
        ("trainer.max_epochs=ten", "trainer.max_epochs='ten' is not a whole number or null"),
        ("trainer.deterministic=perhaps", "trainer.deterministic='perhaps' is not true, false, warn or null"),
        ("trainer.gradient_clip_val=big", "trainer.gradient_clip_val='big' is not a number or null"),
        ("data.shuffle=maybe", "data.shuffle='maybe' is neither true nor false"),  # an argument of the base class
        ("data.num_train=1e3", "data.num_train=1000.0 is not a whole number or null; write 1000"),
        ("data.batch_growth=3", "data.batch_growth=3 is not a table"),
        ("model.network.channels=5", r"model.network.channels=5 is not a list of whole numbers; write \[5\]"),
        ("model.network.channels=[a]", r"model.network.channels=\['a'\] is not a list of whole numbers"),
        ("model.network.dropout='0.1'", "dropout='0.1' is not a number, but text: write it without quotes: 0.1"),
        ("optimizer.momentum=much", "optimizer.momentum='much' is not a number"),  # not model.optimizer.momentum
        ("callbacks.checkpoint.save_last=5", "save_last=5 is not true, false, link or null"),
        ("callbacks.checkpoint.save_last_every=x", "callbacks.checkpoint.save_last_every: `x` is not a duration"),
        ("scheduler.at=[50%,x]", r"scheduler.at=\['50%', 'x'\] is not a list of durations"),
    ],
)
def test_a_wrong_type(override: str, words: str, digits: DictConfig) -> None:
    key, _, value = override.partition("=")
    config = deepcopy(digits)
    OmegaConf.update(config, key, OmegaConf.create(f"value: {value}").value, merge=False)
    with pytest.raises(InputError, match=words):
        check_types(config)


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.lr=1e-3", "data.batch_size=full", "name=2026", "tags=[a,b]", "trainer.max_time=00:00:10:00"),
        ("trainer.devices=[0,1]", "trainer.limit_val_batches=0.5", "trainer.fast_dev_run=3", "data.num_train=null"),
        ("scheduler=multistep", "scheduler.at=[1 epoch, 50%]", "budget='1,000 steps'", "optimizer=adamw"),
        (
            "+trainer.logger=null",
            "+model.nope=1",
            "optimizer.lr=${nope}",
            "data._target_=nowhere.Nothing",
        ),  # others say it
    ],
)
def test_no_false_alarm(overrides: tuple[str, ...]) -> None:
    check_types(composed("+experiment=digits", *overrides))


OWN_TYPES = """
import enum, torch
from typing import Literal
class Kind(enum.Enum):
    A = "a"
def made(
    tensor: torch.Tensor | None = None, tensors: list[torch.Tensor] = [], word: Literal["1", "2"] = "1",
    kind: Literal[Kind.A] = Kind.A, rate: float = "auto", count: int = 1,
): ...
"""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tensor": [1.0, 2.0]}, "model.tensor=[1.0, 2.0] is not a tensor or null"),
        ({"tensors": [1.0]}, "model.tensors=[1.0] is not a list of tensors"),
        ({"word": 1}, "model.word=1 is not 1 or 2, but a number or a truth value; write model.word=\"'1'\""),
        ({"count": "${oc.env:COUNT}"}, "model.count='8' is not a whole number, but text; write ${oc.decode:${oc.env:"),
        ({"kind": "A"}, None),  # a member of an Enum cannot be typed: who takes a word for it knows
        ({"rate": "auto"}, None),  # what it is anyway
    ],
)
def test_types_of_ones_own(
    given: dict[str, object], words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_types.py").write_text(OWN_TYPES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COUNT", "8")
    config = OmegaConf.create({"model": {"_target_": "own_types.made", **given}})
    if words is None:
        check_types(config)
        return
    with pytest.raises(InputError) as error:
        check_types(config)
    assert str(error.value).startswith(words)


@pytest.mark.slow
@pytest.mark.parametrize("group", sorted(files_by_group([PROJECT / "conf"])))
def test_every_file_passes(group: str) -> None:
    sign = "+" if group in ("experiment", "study", "debug") else ""
    for file in files_by_group([PROJECT / "conf"])[group]:
        check_types(composed(f"{sign}{group}={file.stem}"))


def test_a_wrong_type_leaves_nothing(commands: Commands) -> None:
    done = commands("train", "experiment=linear", "trainer.max_epochs=ten")
    assert done.err == "error: trainer.max_epochs='ten' is not a whole number or null\n"
    assert not list(commands.folder.iterdir())


# ---- a growth, key by key ----------------------------------------------------------------------------------------


def test_a_growth_as_it_is_typed(commands: Commands) -> None:
    keys = ("factor=2", "every=5epochs", "max=100", "accumulate=false")
    done = commands("plan", "experiment=minibatch", *(f"data.batch_growth.{key}" for key in keys))
    assert "epochs 5-9    1,257 / 64 = 20 steps" in done.out, done.err
    assert "epochs 10-19  1,257 / 100 = 13 steps" in done.out
    alone = commands("plan", "experiment=minibatch", "data.batch_growth.every=5epochs")
    assert alone.err.endswith("nothing says how much the batch grows; add e.g. data.batch_growth.factor=2\n")


# ---- --help and names --------------------------------------------------------------------------------------------


def test_help(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "own/optimizer").mkdir(parents=True)
    (tmp_path / "own/optimizer/mine.yaml").write_text("# Mine, and very slow: for a try.\ndefaults: [sgd]\n")
    done = commands("train", "experiment=digits", "--help", f"--config-dir={tmp_path}/own")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 79
    assert "  data.batch_size=64             samples a step sees, over all devices; or full" in lines
    assert "  optimizer.lr=0.05              the learning rate" in lines
    assert "  mine           Mine, and very slow: for a try" in lines
    assert "  adamw          Adam with decoupled weight decay: Loshchilov & Hutter (2019)" in lines
    assert not [line for line in lines if line.startswith("  base ")]
    assert "  storage=null                   keep the run there too: s3://bucket/project" in lines
    assert "hydra/launcher=slurm" in done.out
    for heading in ("experiment=...", "study=...", "debug=...", "scheduler=... (constant unless you choose)"):
        assert heading in lines


@pytest.mark.slow
def test_help_has_a_commands_own_keys_first(commands: Commands) -> None:
    """And no studies, which it does not take."""
    lines = commands("tune", "--help").out.splitlines()
    first = lines[lines.index("Main keys, with their values") + 1]
    assert first.startswith("  target=null ")
    assert "study=..." not in lines
    assert max(map(len, lines)) <= 79


@pytest.mark.parametrize(
    ("name", "overrides", "own"),
    [
        (None, ["+experiment=digits", "resume=auto", "logger=csv", "ckpt_path='a=b'"], None),
        (None, ["+experiment=digits", "data.batch_size=128", "optimizer.lr=1e-3"], "batch_size=128,lr=1e-3"),
        (None, ["data.batch_size=8", "model.network.channels=[8,8]"], "batch_size=8"),  # as much as has room
        ("wide try", ["data.batch_size=128"], "wide_try"),
        ("../up", [], ".._up"),
        ("--", [], "--"),
        (" ", [], None),
        ("a" * 300, [], "a" * MAX_NAME),
        ("日" * 100, [], "日" * (MAX_NAME // 3)),  # 3 bytes each
    ],
)
def test_names_say_what_differs(name: str | None, overrides: list[str], own: str | None) -> None:
    assert words_of_run(name, overrides) == ("" if own is None else f"-{own}")


def test_a_name_and_tags(commands: Commands) -> None:
    job = ("experiment=linear", "data.num_samples=64", "trainer.max_epochs=1", "num_threads=1", "logger=none")
    done = commands("train", *job, "name=wide_try", "tags=[a,b]")
    assert done.code == 0, done.err
    assert done.run.name.endswith("-wide_try")
    assert (done.result["name"], done.result["tags"]) == ("wide_try", ["a", "b"])
    again = commands("train", *job, "name=wide_try", "tags=[a,b]", "resume=auto")
    assert "finished before" in again.out
    assert sweep_name("wide").split("-")[-1].startswith("wide_")
    assert "-_" not in sweep_name(" ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimiser.lr=0.1"], "no key 'optimiser' in the configuration; did you mean optimizer; to add a new one "),
        (["+batch_size=32"], "+batch_size=32 would be read by nothing; did you mean data.batch_size=32"),
        (["lr=0.1"], "no key 'lr' in the configuration; did you mean optimizer.lr; to add a new one "),
        (["batch_size=32"], "no key 'batch_size' in the configuration; did you mean data.batch_size; to add "),
        (["callbacks=[ema,early_stoping]"], "no callbacks 'early_stoping'; did you mean early_stopping"),
        (["optimizer.lr=0,1"], "optimizer.lr=0,1 is several values: add -m for a run with each, or write "),
        (["data._target_=project.data.digits.Digit"],
         "data=project.data.digits.Digit: no Digit in project.data.digits; did you mean Digits"),
        (["data._target_=project.data.digit.Digits"],
         "data=project.data.digit.Digits: no digit in project.data; did you mean digits"),
    ],
)  # fmt: skip
def test_what_people_mistype(words: list[str], line: str, commands: Commands) -> None:
    done = commands("train", "+experiment=digits", "trainer=cpu", *words)
    assert done.code == 2
    assert done.err.startswith(f"error: {line}"), done.err
    assert done.err.count("\n") == 1
    assert all((run / "result.json").is_file() for run in done.runs)
