"""A checkpoint is data: its module comes back with one call, and nothing in the file is ever run."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Commands
from forked import Forked
from torch import Tensor, nn

import metronome
from metronome.app.config import allowed
from metronome.app.evaluate import evaluate
from metronome.app.load import config_of
from metronome.models import Classifier, Regressor
from metronome.units import InputError
from project.models import mlp

INPUTS = torch.linspace(-1, 1, 640).view(10, 64)
SHORT = ["trainer=cpu", "logger=none", "budget=5steps", "trainer.val_check_interval=5", "test=false"]
DIGITS = ["+experiment=digits", "model=mlp", "model.network.dropout=0.5", *SHORT]
LINEAR = ["+experiment=linear", *SHORT]


@pytest.fixture
def trained(commands: Commands) -> Callable[..., Path]:
    """Trains a little; gives the checkpoint."""

    def train(*arguments: str) -> Path:
        done = commands("train", *arguments)
        assert done.code == 0, done.err
        return done.run / "checkpoints/last.ckpt"

    return train


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of a user's own, `own_package`, which leaves a file when it is imported; gives that file's path."""
    folder, mark = tmp_path / "site", tmp_path / "imported"
    (folder / "own_package").mkdir(parents=True)
    (folder / "own_package/__init__.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (folder / "own_package/parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder))
    yield mark
    for name in [name for name in sys.modules if name.split(".")[0] == "own_package"]:
        del sys.modules[name]


OWN = """
import os
from os import system

import lightning as L
from torch import nn

from project.data import Linear
from metronome.models import Regressor
from metronome.training import Trainer


class Net(nn.Linear):
    def __init__(self, num_inputs, num_outputs, **rest):
        super().__init__(num_inputs, num_outputs)
        self.rest = rest

    @classmethod
    def make(cls, num_inputs, num_outputs):
        return cls(num_inputs, num_outputs)

    runs = staticmethod(system)


class Data(Linear):
    pass


class OwnTrainer(Trainer):
    pass


class Late(L.LightningModule):
    def configure_model(self):
        self.layer = nn.Linear(2, 1)


def linear(num_inputs, num_outputs):
    return nn.Sequential(nn.Flatten(), Net(num_inputs, num_outputs))
"""


def network(path: Path) -> nn.Module:
    """The trained network of DIGITS, put together by hand."""
    weights = torch.load(path, weights_only=True)["state_dict"]
    net = mlp(64, 10, dropout=0.5).eval()
    net.load_state_dict({name.removeprefix("network."): weight for name, weight in weights.items()})
    return net


# ---- what it gives ------------------------------------------------------------------------------------


def test_it_gives_the_trained_module(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained(*DIGITS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = metronome.load(os.path.relpath(path))
    assert isinstance(model, Classifier)
    assert not any(module.training for module in model.modules())
    outputs = model(INPUTS)
    assert torch.equal(outputs, network(path)(INPUTS))
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


LOADS = """
import json, sys
from metronome import load
model = load(sys.argv[1])
import torch
from hydra.core.global_hydra import GlobalHydra
assert not GlobalHydra.instance().is_initialized()
print(json.dumps(model(torch.linspace(-1, 1, 640).view(10, 64)).tolist()))
"""


@pytest.mark.parametrize("way", ["forked", pytest.param("from nothing", marks=pytest.mark.slow)])
def test_in_a_fresh_process(way: str, trained: Callable[..., Path], tmp_path: Path) -> None:
    path, script = trained(*DIGITS), tmp_path / "loads.py"
    script.write_text(LOADS)
    if way == "forked":
        with Forked(tmp_path, script, str(path)) as process:
            done = process.done()
        code, out, err = done.code, done.out, done.err
    else:
        command = [sys.executable, str(script), str(path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        code, out, err = done.returncode, done.stdout, done.stderr
    assert code == 0, err
    assert json.loads(out) == pytest.approx(network(path)(INPUTS).detach().numpy())


def test_the_package_is_imported_at_once() -> None:
    """What takes long waits until something is asked for."""
    code = "import sys, metronome; sys.exit(bool({'torch', 'lightning', 'hydra', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_random_numbers_stay_as_they_are(forge: Callable[..., Path]) -> None:
    path = forge()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    metronome.load(path)
    assert torch.equal(torch.rand(3), expected)


def test_the_precision_is_that_of_the_training(trained: Callable[..., Path]) -> None:
    path = trained(*LINEAR, "trainer.precision=64-true")
    weights = torch.load(path, weights_only=True)["state_dict"]
    ours = metronome.load(path).state_dict()
    assert {weight.dtype for weight in ours.values()} == {torch.float64}
    assert all(torch.equal(ours[name], weight) for name, weight in weights.items())
    exact = evaluate(path, [])
    assert evaluate(path, ["trainer.precision=32-true"]) == pytest.approx(exact, rel=1e-5)


def test_the_device_is_as_one_likes(forge: Callable[..., Path]) -> None:
    path = forge()
    assert metronome.load(path, map_location="meta").network[0].weight.is_meta  # pyright: ignore
    for nowhere in ("nowhere", "cuda:99", {"cuda": "cpu"}):
        with pytest.raises(InputError, match="is no device to use here"):
            metronome.load(path, map_location=nowhere)  # pyright: ignore


def test_layers_made_late(forge: Callable[..., Path], own: Path) -> None:
    weights = {"layer.weight": torch.ones(1, 2), "layer.bias": torch.zeros(1)}
    model = metronome.load(forge({"_target_": "own_package.parts.Late"}, weights), allow=["own_package"])
    assert torch.equal(model.layer(torch.ones(2)), torch.tensor([2.0]))  # pyright: ignore


# ---- what is allowed ----------------------------------------------------------------------------------


def a_model(**network: Any) -> dict[str, Any]:
    """The configuration of a model with one linear layer."""
    layer = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}
    network = network or {"_target_": "torch.nn.Sequential", "_args_": [layer]}
    optimizer = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
    scheduler = {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 1}
    model = {"_target_": "metronome.models.Regressor", "optimizer": optimizer, "scheduler": scheduler}
    return model | {"network": network, "compile": False}


@pytest.fixture
def forge(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint with a configuration of one's own choice."""

    def write(
        model: Any = None, weights: dict[str, Tensor] | None = None, name: str = "forged.ckpt", **config: Any
    ) -> Path:
        data = {"_target_": "project.data.Linear", "num_features": 2, "num_samples": 20, "batch_size": 10}
        trainer = {"_target_": "metronome.training.Trainer", "accelerator": "cpu"}
        config = {"data": data, "model": model or a_model(), "trainer": trainer, "seed": 0} | config
        weights = weights or {"network.0.weight": torch.ones(1, 2), "network.0.bias": torch.zeros(1)}
        torch.save({"state_dict": weights, "metronome": {"config": config}}, tmp_path / name)
        return tmp_path / name

    return write


def test_ours_and_torchs_are_made(forge: Callable[..., Path]) -> None:
    model = metronome.load(forge())
    assert isinstance(model, Regressor)
    assert torch.equal(model(torch.ones(3, 2)), torch.full((3, 1), 2.0))
    optimizer = model.make_optimizer(model.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["lr"] == 0.1
    assert evaluate(forge(), [])["test/loss"] > 0


def test_metrics_are_made(forge: Callable[..., Path]) -> None:
    metric = {"_target_": "torchmetrics.regression.MeanSquaredError"}
    pieces = {"_target_": "torch.nn.ModuleDict", "modules": {"metric": metric, "loss": {"_target_": "torch.nn.L1Loss"}}}
    model = metronome.load(forge(a_model(_target_="torch.nn.Sequential", _args_=[LAYER, pieces])))
    assert model.network[1]["metric"](torch.ones(2), torch.zeros(2)) == 1  # pyright: ignore


LAYER = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1}
OWN_LINEAR = {"_target_": "own_package.parts.linear", "num_inputs": 2, "num_outputs": 1}
OWN_WEIGHTS = {"network.1.weight": torch.ones(1, 2), "network.1.bias": torch.zeros(1)}


def test_a_users_own_is_allowed_by_name(own: Path, forge: Callable[..., Path], commands: Commands) -> None:
    path = forge(a_model(**OWN_LINEAR), OWN_WEIGHTS)
    with pytest.raises(InputError, match=r"model.network asks for own_package.parts.linear; .*allow=\['own_package'\]"):
        metronome.load(path)
    done = commands("evaluate", str(path))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.endswith("only if you trust the file: allow=own_package\n")
    assert not own.exists()

    for allow in (["own_package"], "own_package", ["other", "own_package.parts"], "other,own_package"):
        assert isinstance(metronome.load(path, allow=allow), Regressor)
    assert own.exists()
    done = commands("evaluate", str(path), "allow=own_package")
    assert done.code == 0, done.err
    assert json.loads(done.out)["test/loss"] > 0


def test_all_of_ones_own(own: Path, trained: Callable[..., Path], commands: Commands) -> None:
    where = "own_package.parts"
    path = trained(
        *LINEAR, f"model.network._target_={where}.linear", f"data._target_={where}.Data",
        f"trainer._target_={where}.OwnTrainer", "+debug=profile", "~trainer.max_epochs",
    )  # fmt: skip
    assert metronome.load(path, allow=["own_package"]).network[1].weight.shape == (1, 10)  # pyright: ignore
    for change in (f"data._target_={where}.Linear", f"trainer._target_={where}.Net", f"trainer._target_={where}.nope"):
        done = commands("evaluate", str(path), "allow=own_package", change)
        assert (done.code, done.err.count("\n")) == (2, 1)
    done = commands("evaluate", str(path), "allow=own_package")
    assert done.code == 0, done.err
    assert json.loads(done.out).keys() == {"test/loss", "test/mae"}


def test_a_class_method_of_ones_own(own: Path, forge: Callable[..., Path]) -> None:
    options = {"num_inputs": 2, "num_outputs": 1}
    weights = {"network.weight": torch.ones(1, 2), "network.bias": torch.zeros(1)}
    path = forge(a_model(_target_="own_package.parts.Net.make", **options), weights)
    assert metronome.load(path, allow=["own_package"])(torch.ones(2)) == 2


@pytest.mark.parametrize(
    "target", ["system", "os.system", "nn.Linear", "Net.runs", "Net.forward", "Net.load_state_dict", "Net._call_impl"]
)
def test_what_ones_own_package_imports_is_not_its_own(target: str, own: Path, forge: Callable[..., Path]) -> None:
    path = forge(a_model(_target_=f"own_package.parts.{target}", _args_=[f"touch {own}.run"]))
    with pytest.raises(InputError):
        metronome.load(path, allow=["own_package"])
    assert not Path(f"{own}.run").exists()


@pytest.mark.parametrize("allow", [[""], "", ["*"], ["../x"], ["a b"], [3], "own_package,", ["own_package."]])
def test_allow_takes_names_of_packages(allow: Any, forge: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="is no package; write its name"):
        metronome.load(forge(), allow=allow)


def test_texts_stay_texts(own: Path, forge: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "resolved")
    text, weights = "${oc.env:SECRET}", {"network.weight": torch.ones(1, 2), "network.bias": torch.zeros(1)}
    layer = {"_target_": "own_package.parts.Net", "num_inputs": 2, "num_outputs": 1, "text": text, "more": [{1: text}]}
    model = metronome.load(forge(a_model(**layer), weights), allow=["own_package"])
    assert model.network.rest == {"text": text, "more": [{1: text}]}  # pyright: ignore
    # Made by who takes it, it might be resolved.
    unmade = {"_recursive_": False, "inner": LAYER}
    model = metronome.load(forge(a_model(**layer | unmade | {"text": "", "more": []}), weights), allow=["own_package"])
    assert model.network.rest["inner"] == LAYER  # pyright: ignore
    with pytest.raises(InputError, match="is not _recursive_"):
        metronome.load(forge(a_model(**layer | unmade), weights), allow=["own_package"])
    unmade |= {"inner": {"_target_": "os.system"}, "text": "", "more": []}
    with pytest.raises(InputError, match=r"asks for os\.system"):
        metronome.load(forge(a_model(**layer | unmade), weights), allow=["own_package"])


def test_a_checkpoint_from_before_the_examples_moved(forge: Callable[..., Path]) -> None:
    network = {"_target_": "metronome.models.networks.linear", "num_inputs": 2, "num_outputs": 1}
    weights = {"network.1.weight": torch.ones(1, 2), "network.1.bias": torch.zeros(1)}
    data = {"_target_": "metronome.data.Linear", "num_features": 2, "num_samples": 20, "batch_size": 10}
    path = forge(a_model(**network), weights, data=data)
    assert metronome.load(path)(torch.ones(1, 2)) == 2
    assert evaluate(path, [])["test/loss"] > 0


def test_a_package_that_was_renamed(forge: Callable[..., Path]) -> None:
    """Its checkpoints from before hold its name of then."""
    path = forge(a_model(_target_="name_of_then.models.linear", num_inputs=2, num_outputs=1))
    (own,) = allowed.own_packages()
    assert f"another name now, model.network._target_={own}.models.linear in scripts/evaluate.py" in refused(path)


def test_a_projects_own_lie_beside_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout; where the library is installed, nothing beside it is anybody's own."""
    here = tmp_path / "src/metronome/app/config/allowed.py"
    for package in ("mine", "yours", "metronome"):
        (tmp_path / "src" / package).mkdir(parents=True)
        (tmp_path / "src" / package / "__init__.py").touch()
    (tmp_path / "src/no_package").mkdir()
    monkeypatch.setattr(allowed, "__file__", str(here))
    assert allowed.own_packages() == []
    (tmp_path / "pyproject.toml").touch()
    assert allowed.own_packages() == ["mine", "yours"]
    assert "allowed are mine, yours, metronome.models" in allowed.allowed_in_words()


# ---- what is not --------------------------------------------------------------------------------------

# Each would make the file MARK if it were run: {mark}, {evil} and {folder} are filled in.
TOUCH, WRITE = "touch {mark}", "open('{mark}', 'w')"
CODE = [
    {"_target_": "os.system", "command": TOUCH},
    {"_target_": "posix.system", "_args_": [TOUCH]},
    {"_target_": "subprocess.Popen", "args": ["touch", "{mark}"]},
    {"_target_": "subprocess.run", "_args_": [["touch", "{mark}"]]},
    {"_target_": "builtins.eval", "_args_": [WRITE]},
    {"_target_": "builtins.exec", "_args_": [WRITE]},
    {"_target_": "builtins.open", "_args_": ["{mark}", "w"]},
    {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": ["{mark}"]}]},
    {"_target_": "runpy.run_path", "path_name": "{folder}/evil_module.py"},
    {"_target_": "importlib.import_module", "name": "evil_module"},
    {"_target_": "hydra.utils.get_class", "path": "evil_module.Net"},
    {"_target_": "functools.partial", "_args_": [{"_target_": "os.system", "_partial_": True}]},
    {"_target_": "torch.load", "f": "{folder}/evil.pickle", "weights_only": False},
    {"_target_": "torch.hub.load", "repo_or_dir": "{folder}", "model": "net", "source": "local"},
    {"_target_": "torch.nn.modules.module.torch.hub.load", "_args_": ["{folder}", "net"], "source": "local"},
    {"_target_": "metronome.models.supervised.torch.hub.load", "_args_": ["{folder}", "net"], "source": "local"},
    {"_target_": "project.models.convolutional.nn.modules.module.torch.load", "_args_": ["{folder}/evil.pickle"]},
    {"_target_": "metronome.models.supervised.inspect.os.system", "_args_": [TOUCH]},
    {"_target_": "metronome.models.Classifier.load_from_checkpoint", "_args_": ["{folder}/evil.pickle"]},
    {"_target_": "metronome.models.__builtins__.eval", "_args_": [WRITE]},
    {"_target_": "metronome.models.__loader__.exec_module", "_args_": ["evil_module"]},
    {"_target_": "metronome.models.evil_module"},
    {"_target_": "evil_module.Net"},
    {"_target_": "evil_module"},
    {"_target_": "ｏｓ.system", "_args_": [TOUCH]},
    {"_target_": "os.ｓystem", "_args_": [TOUCH]},
    {"_target_": "os.system\n", "_args_": [TOUCH]},
    {"_target_": " os.system", "_args_": [TOUCH]},
    {"_target_": "os..system", "_args_": [TOUCH]},
    {"_target_": "os.system()", "_args_": [TOUCH]},
    {"_target_": "${oc.decode:os.system}", "_args_": [TOUCH]},
    {"_target_": ["os.system"], "_args_": [TOUCH]},
    {"_target_": {"_target_": "os.system", "_args_": [TOUCH]}},
]  # fmt: skip
# Where such a thing may lie in a model.
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "the model": lambda evil: evil,
    "an argument": lambda evil: a_model(**evil),
    "a list": lambda evil: a_model(_target_="torch.nn.Sequential", _args_=[[{"deep": [LAYER, [evil]]}]]),
    "an option of a partial": lambda evil: a_model() | {"optimizer": a_model()["optimizer"] | {"lr": evil}},
    "a partial": lambda evil: a_model() | {"scheduler": evil | {"_partial_": True}},
    "what is not made": lambda evil: a_model(_target_="torch.nn.Sequential", _recursive_=False, _args_=[evil]),
}


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Things that make a file when they are run; checks at the end that none was. Gives the folder."""
    mark = tmp_path / "run"
    for name in ("evil_module.py", "hubconf.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w')\n")
    torch.save({"state_dict": Bomb(mark)}, tmp_path / "evil.pickle")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not mark.exists()
    assert "evil_module" not in sys.modules


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def filled(config: Any, folder: Path) -> Any:
    text = json.dumps(config).replace("{mark}", str(folder / "run")).replace("{folder}", str(folder))
    return json.loads(text)


def refused(path: Path, **options: Any) -> str:
    """The line in which a checkpoint is refused."""
    with pytest.raises(InputError) as refusal:
        metronome.load(path, **options)
    line = str(refusal.value)
    assert "\n" not in line
    assert len(line) < 1_200
    return line


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("config", CODE, ids=lambda config: str(config["_target_"]))
def test_code_is_refused(config: dict[str, Any], place: str, evil: Path, forge: Callable[..., Path]) -> None:
    line = refused(forge(PLACES[place](filled(config, evil))))
    assert "asks for" in line or "is not a name" in line or "is not _recursive_" in line


def test_the_code_above_would_run(evil: Path, forge: Callable[..., Path]) -> None:
    """Else the test above proves nothing."""
    mark = evil / "run"
    for name, count in (("os", 1), ("builtins", 3), ("runpy", 1), ("torch", 3), ("evil_module", 1)):
        ran = 0
        for config in CODE:
            if str(config["_target_"]).startswith(f"{name}.") and str(config["_target_"]).isascii():
                refused(forge(a_model(**filled(config, evil))), allow=[name, "posix", "io", "_io"])
                ran += mark.exists()
                mark.unlink(missing_ok=True)
        assert ran == count, name
    del sys.modules["evil_module"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("metronome.models.supervised._made", "which is private"),
        ("metronome.models._hidden.Net", "which is private"),
        ("metronome.models.Classifier.__init__", "which is private"),
        ("project.models.convolutional.gcd", "which is defined in math"),
        ("project.models.perceptron.pairwise", "which is defined in itertools"),
        ("metronome.models.supervised.Callable", "which"),
        ("project.models.convolutional.nn.Linear", "is the module torch.nn of another package"),
        ("metronome.models.Classifier.training_step", "training_step is no class or class method"),
        ("metronome.models.mine_is_not_here", "which cannot be had: "),
        ("metronome.models.classifier", "which is neither a class nor a function"),
        ("metronome.data.module.Trainer", "which is defined in metronome.training.trainer"),
        ("metronome.training.Trainer", "allow=['metronome.training']"),
        ("metronome.app.run.claim.Run.load", "allow=['metronome.app.run.claim.Run']"),
        ("torch.nn.functional.relu", "which is defined in torch.nn.functional"),
        ("torch.nn.init.normal_", "which is defined in torch.nn.init"),
        ("torch.nn.Embedding.from_pretrained", "which is no Module"),
        ("torch.nn.parallel.DistributedDataParallel", "which is defined in torch.nn.parallel"),
        ("torch.nn.modules.module.register_module_forward_hook", "which is no Module"),
        ("torch.nn.Parameter", "which is defined in torch.nn.parameter"),
        ("torch.jit.load", "allow=['torch.jit']"),
        ("torch.fx.GraphModule", "allow=['torch.fx']"),
        ("torch.package.PackageImporter", "allow=['torch.package']"),
        ("torch.optim.swa_utils.AveragedModel", "which is no Optimizer or LRScheduler"),
        ("torch.optim.lr_scheduler.Counter", "which is defined in collections"),
        ("torchmetrics.text.BERTScore", "which cannot be had"),
        ("torchmetrics.functional.accuracy", "which is"),
        ("torchmetrics.image.PeakSignalNoiseRatio", "which is defined in torchmetrics.image"),
        ("lightning.pytorch.demos.boring_classes.BoringModel", "allow=['lightning']"),
        ("os.system", "better not trust the file"),
        ("", "which is no name of a class or function in a module"),
        ("Net", "which is no name of a class or function in a module"),
        (None, "_target_ of model.network is not a name"),
        (3, "_target_ of model.network is not a name"),
        (True, "_target_ of model.network is not a name"),
    ],
)
def test_only_what_is_allowed(target: Any, words: str, evil: Path, forge: Callable[..., Path]) -> None:
    assert words in refused(forge(a_model(_target_=target)))


def test_no_module_of_a_library_is_imported(
    evil: Path, forge: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn, "__path__", [*nn.__path__, str(evil)])
    assert "has no attribute 'evil_module'" in refused(forge(a_model(_target_="torch.nn.evil_module.Net")))


def nested(depth: int) -> Any:
    config: Any = LAYER
    for _ in range(depth):
        config = [config]
    return config


def in_itself() -> Any:
    config: list[Any] = []
    config.append(config)
    return config


def laughs() -> Any:
    """2**40 values in a file of 40 lists."""
    config: list[Any] = [1]
    for _ in range(40):
        config = [config, config]
    return config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"modules": nested(60)}, "too large"),
        ({"modules": in_itself()}, "too large"),
        ({"modules": laughs()}, "too large"),
        ({"modules": [0] * 1_000_001}, "too large"),
        ({"modules": 10**30}, "an unusual int"),
        ({"modules": 10**5_000}, "cannot be read as plain data"),
        ({"modules": torch.zeros(2)}, "an unusual Tensor"),
        ({"modules": (1, 2)}, "an unusual tuple"),
        ({(1, 2): 3}, "an unusual tuple"),
        ({1: 2}, "cannot make torch.nn.Sequential for model.network"),
        ({"nope\n\x1b[2J": 2}, "cannot make torch.nn.Sequential for model.network"),
        ({"_args_": [{"_target_": "torch.nn.Linear", "in_features": 2**62, "out_features": 2**62}]}, "cannot make"),
        ({"_args_": [{"_target_": "torch.nn.Linear", "in_features": "x" * 10_000, "out_features": 1}]}, "cannot make"),
        ({"_args_": "text"}, "_args_ of model.network is not a list"),
        ({"_partial_": "os.system"}, "_partial_ of model.network is not true or false"),
        ({"_recursive_": 0}, "_recursive_ of model.network is not true or false"),
        ({"_convert_": "none"}, "_convert_ of model.network is not all"),
        ({"_convert_": ["all"]}, "_convert_ of model.network is not all"),
    ],
)
def test_odd_configurations(options: dict[Any, Any], words: str, forge: Callable[..., Path]) -> None:
    model = a_model() | {"network": {"_target_": "torch.nn.Sequential"} | options}
    line = refused(forge(model))
    assert words in line
    assert line.isprintable()


def test_no_depth_is_too_much() -> None:
    for depth in (60, 100_000):
        with pytest.raises(InputError, match="too large"):
            config_of({"metronome": {"config": {"model": nested(depth)}}}, "deep.ckpt", "model")


@pytest.mark.parametrize(
    "config", [None, [], 3, {}, {"model": None}, {"model": []}, {"model": {}}, {"model": {"x": 1}}]
)
@pytest.mark.parametrize("about", [lambda config: {"config": config}, lambda config: config])
def test_no_configuration(config: Any, about: Callable[[Any], Any], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "metronome": about(config)}, tmp_path / "odd.ckpt")
    refused(tmp_path / "odd.ckpt")
    with pytest.raises(InputError):
        evaluate(tmp_path / "odd.ckpt", [])


@pytest.mark.parametrize(
    "weights",
    [
        {"network.0.weight": torch.ones(1, 2)},
        {"network.0.weight": torch.ones(1, 3), "network.0.bias": torch.zeros(1)},
        {"network.0.weight": "text", "network.0.bias": torch.zeros(1)},
        {"network.0.weight": torch.ones(1, 2).to_sparse(), "network.0.bias": [0.0]},
        {"network.0.weight": torch.ones(1, 2), "network.0.bias": torch.zeros(1), 3: torch.zeros(1)},
    ],
)
def test_other_weights(weights: Any, forge: Callable[..., Path]) -> None:
    refused(forge(weights=weights))


# ---- the same for an evaluation -----------------------------------------------------------------------

EVIL_FLAGS = [
    {"accelerator": {"_target_": "os.system", "command": TOUCH}},
    {"precision": [{"_target_": "os.system", "command": TOUCH}]},
    {"_target_": "os.system", "_args_": [TOUCH]},
    {"_target_": "evil_module.Trainer"},
    {"_target_": "lightning.pytorch.Trainer"},
    {"_target_": ["metronome.training.Trainer"]},
    {"_target_": "metronome.training.trainer.L.Trainer"},
    {"_target_": "metronome.models.Classifier"},
]


@pytest.mark.parametrize("flags", EVIL_FLAGS, ids=str)
def test_the_trainer_of_a_file_is_ours(flags: dict[str, Any], evil: Path, forge: Callable[..., Path]) -> None:
    trainer = {"_target_": "metronome.training.Trainer"} | filled(flags, evil)
    with pytest.raises(InputError):
        evaluate(forge(trainer=trainer), [])


def test_flags_without_a_use_in_a_test_are_left_alone(evil: Path, forge: Callable[..., Path]) -> None:
    code = filled({"_target_": "os.system", "command": TOUCH}, evil)
    names = ("profiler", "strategy", "plugins", "logger", "callbacks", "default_root_dir", "max_epochs", "nope")
    trainer = {"_target_": "metronome.training.Trainer", "accelerator": "cpu"} | dict.fromkeys(names, code)
    before = sorted(evil.rglob("*"))
    path = forge(trainer=trainer, callbacks={"evil": code}, logger={"evil": code})
    assert math.isfinite(evaluate(path, [])["test/loss"])
    assert sorted(evil.rglob("*")) == sorted([*before, path])


@pytest.mark.parametrize("place", ["data", "model"])
@pytest.mark.parametrize("config", CODE[::4], ids=lambda config: str(config["_target_"]))
def test_an_evaluation_refuses_code(
    config: dict[str, Any], place: str, evil: Path, forge: Callable[..., Path], commands: Commands
) -> None:
    done = commands("evaluate", str(forge(**{place: filled(config, evil)})))
    assert (done.code, done.err.count("\n"), done.out) == (2, 1, "")


def test_a_change_is_held_to_the_same(evil: Path, forge: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "resolved")
    for change in (
        "model._target_=os.system",
        "model.network={_target_: evil_module.Net}",
        "trainer.profiler=simple",
        "trainer._target_=lightning.Trainer",
        "data.num_samples=${oc.env:SECRET}",
    ):
        with pytest.raises(InputError) as refusal:
            evaluate(forge(), [change])
        assert "resolved" not in str(refusal.value)


# ---- files --------------------------------------------------------------------------------------------


def test_a_file_that_would_run_code(evil: Path, commands: Commands) -> None:
    torch.save({"state_dict": {}, "metronome": {"config": {"model": Bomb(evil / "run")}}}, evil / "inside.ckpt")
    torch.save(
        {"state_dict": {}, "callbacks": Bomb(evil / "run")}, evil / "old.ckpt", _use_new_zipfile_serialization=False
    )
    for name in ("evil.pickle", "inside.ckpt", "old.ckpt"):
        assert "cannot be read as plain data" in refused(evil / name)
        for arguments in (["evaluate", name], ["train", *LINEAR, f"ckpt_path={name}"]):
            done = commands(*arguments)
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert "cannot be read as plain data" in done.err
    torch.load(evil / "evil.pickle", weights_only=False)
    (evil / "run").unlink()  # that it is there shows that the file is armed


def test_damaged_files(forge: Callable[..., Path], tmp_path: Path, commands: Commands) -> None:
    path, damaged = forge(), tmp_path / "damaged.ckpt"
    whole = path.read_bytes()
    pickled = whole.index(b"data.pkl") + 64
    damages = [whole[:length] for length in (0, 1, 4, 100, len(whole) // 2, len(whole) - 1)]
    damages += [bytes(byte ^ 255 for byte in whole[:4]) + whole[4:], b"\x80\x02" + bytes(100), b"text"]
    damages += [
        whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(pickled, pickled + 400, 3) for byte in (0, 98)
    ]
    lines = []
    for damage in damages:
        damaged.write_bytes(damage)
        try:
            metronome.load(damaged)  # what is damaged may be a value that does no harm
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 100
    assert not any("\n" in line for line in lines)
    for damage in damages[:8]:
        damaged.write_bytes(damage)
        done = commands("evaluate", str(damaged))
        assert (done.code, done.err.count("\n")) == (2, 1)


def test_no_such_file(tmp_path: Path) -> None:
    assert "is not there" in refused(tmp_path / "nope.ckpt")
    assert "is a folder" in refused(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "was made elsewhere" in refused(tmp_path / "other.ckpt")
