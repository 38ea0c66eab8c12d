"""A checkpoint is data: the module in it is made of what is allowed, and nothing in the file is ever run."""

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from metronome.app.config.rates import unscaled
from metronome.app.console.command_line import one_line
from metronome.app.run.checkpoints import KEY, check_fits, check_whole, read_checkpoint
from metronome.training.batches.seeds import generators_kept
from metronome.units import InputError

# What a configuration says about how to make an object, beside the arguments.
_OPTIONS = {"_target_": str, "_partial_": bool, "_args_": list, "_recursive_": bool}
_WORDS = {str: "a name", bool: "true or false", list: "a list"}
_PLAIN = (str, int, float, bool, type(None))
# Bounds that no configuration comes near. A file made to do harm may hold itself, or one list a million times over.
_MAX_DEPTH, _MAX_VALUES, _MAX_BITS = 50, 1_000_000, 64


def load(
    path: str | Path, allow: str | Iterable[str] = (), map_location: str | torch.device = "cpu"
) -> L.LightningModule:
    """What `metronome.load` does; it says how to use it."""
    checkpoint = read_whole(path)
    build = Builder({"model": unscaled(config_of(checkpoint, path, "model")["model"])}, path, allow)
    with generators_kept():  # the first weights are drawn, only to be replaced
        model = build("model")
    restore(model, checkpoint, path)
    try:
        return model.to(map_location).eval()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(
            f"map_location={map_location!r} is no device to use here: {_short(one_line(error))}"
        ) from error


# ---- the file -----------------------------------------------------------------------------------------


def read_whole(path: str | Path) -> dict[str, Any]:
    """A checkpoint that has been read to its last byte. Raises InputError for any other file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's thoughts about bytes that make no sense
        checkpoint = read_checkpoint(path)
    check_whole(path)
    return checkpoint


def config_of(checkpoint: dict[str, Any], path: str | Path, *groups: str) -> dict[str, Any]:
    """A copy of the configuration in a checkpoint, of which nothing is resolved or made.

    Args:
        checkpoint: what `read_whole` gives.
        path: the file, for words.
        groups: those that it must have, each with a `_target_`.

    Raises:
        InputError: if there is none, or it is anything but plain data.
    """
    if KEY not in checkpoint:
        raise InputError(f"checkpoint {path} was made elsewhere, or of weights only: no configuration is in it")
    about = checkpoint[KEY]
    config = about.get("config") if type(about) is dict else None
    if type(config) is not dict:
        raise InputError(f"checkpoint {path} has no configuration where it belongs")
    try:
        config = _copy(config)
    except InputError as error:
        raise InputError(f"checkpoint {path}: {error}") from error
    for group in groups:
        if type(config.get(group)) is not dict or "_target_" not in config[group]:
            raise InputError(f"checkpoint {path}: its configuration has no {group} with a _target_ to make")
    return config


def _copy(config: Any) -> Any:
    """The same in new dicts and lists. Raises InputError if anything else is in it, or far too much."""
    seen = 0

    def copy(value: Any, where: str, depth: int) -> Any:
        nonlocal seen
        seen += 1
        if seen > _MAX_VALUES or depth > _MAX_DEPTH:
            raise InputError(f"its configuration is too large at {_short(where)}")
        if type(value) is dict:
            keys = (copy(key, f"a key of {where or 'it'}", _MAX_DEPTH) for key in value)
            return {key: copy(value[key], _below(where, key), depth + 1) for key in keys}
        if type(value) is list:
            return [copy(item, _below(where, index), depth + 1) for index, item in enumerate(value)]
        if type(value) not in _PLAIN or (type(value) is int and value.bit_length() > _MAX_BITS):
            raise InputError(f"its configuration holds an unusual {type(value).__name__} at {_short(where)}")
        return value

    return copy(config, "", 0)


def restore(model: Any, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Put a checkpoint's weights into its module, in the precision that they were trained in.

    Raises:
        InputError: if it is no LightningModule, or the weights are not its own.
    """
    if not isinstance(model, L.LightningModule):
        raise InputError(f"model must make a LightningModule, and it makes a {type(model).__name__}")
    weights = checkpoint["state_dict"]
    try:
        if set(model.state_dict()) != set(weights):
            model.configure_model()  # a module may make its layers there
        model.on_load_checkpoint(checkpoint)
        check_fits(checkpoint, model, path)
        trained, made = (_precisions(tensors) for tensors in (weights, model.state_dict()))
        if len(trained) == 1 and trained != made:
            model.to(dtype=trained.pop())
        model.load_state_dict(weights)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"checkpoint {path}: its weights do not fit: {_short(one_line(error))}") from error


def _precisions(tensors: dict[str, torch.Tensor]) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}


# ---- what is allowed ----------------------------------------------------------------------------------


class Rule(NamedTuple):
    """What may be used of a package.

    Attributes:
        package: where its names begin.
        bases: of a library, the classes of which one must be a base; none for a package of which all may be used.
        homes: the packages in which the class or function itself must be defined; none for `package`.
    """

    package: str
    bases: tuple[type, ...] = ()
    homes: tuple[str, ...] = ()

    def covers(self, name: str) -> bool:
        return name.startswith(f"{self.package}.")

    def rest(self, name: str) -> list[str]:
        """The parts of a name below the package."""
        return name[len(self.package) + 1 :].split(".")

    def is_home(self, module: object) -> bool:
        homes = self.homes or (self.package,)
        return isinstance(module, str) and any(module == home or module.startswith(f"{home}.") for home in homes)


# Of torch the plain layers: not torch.jit, torch.fx or torch.package, whose modules are programs in the form of data,
# nor what starts processes. Of torchmetrics not text, image, audio and such, where an argument names a download.
_METRICS = ("aggregation", "classification", "clustering", "nominal", "regression", "retrieval", "segmentation")
_RULES = (
    Rule("metronome.models"),
    Rule("metronome.data"),
    Rule("torch.nn", (nn.Module,), ("torch.nn.modules",)),
    Rule("torch.optim", (Optimizer, LRScheduler)),
    Rule("torchmetrics", (Metric,), tuple(f"torchmetrics.{part}" for part in (*_METRICS, "wrappers"))),
)
_ALLOWED = (
    "allowed are metronome.models, metronome.data, layers of torch.nn, optimizers and schedulers of torch.optim and "
    "numeric metrics of torchmetrics"
)
_LIBRARIES = {rule.package.split(".")[0] for rule in _RULES}


def packages_of(allow: str | Iterable[str]) -> list[str]:
    """The packages that a user allows. Raises InputError for what can be none."""
    packages = allow.split(",") if isinstance(allow, str) else list(allow)
    for package in packages:
        if not isinstance(package, str) or not all(part.isidentifier() for part in package.split(".")):
            raise InputError(f"allow={package!r} is no package; write its name as in an import, such as mypackage")
    return packages


class Builder:
    """Makes what the configuration in a checkpoint describes, as Hydra would, but of what is allowed only.

    Every `_target_` in it is judged by its name before anything is imported, and found before anything is made.

    Args:
        parts: plain data, as `config_of` gives them, by name.
        path: the checkpoint, for words.
        allow: packages of which every class and function may be used too.
        hint: what to type to allow some packages.

    Raises:
        InputError: if something is asked for that is not allowed, or is not there.
    """

    def __init__(
        self,
        parts: dict[str, Any],
        path: str | Path,
        allow: str | Iterable[str] = (),
        hint: Callable[[list[str]], str] = lambda packages: f"allow={packages}",
    ) -> None:
        self._parts, self._path, self._hint = parts, path, hint
        self._allow = packages_of(allow)
        # The user's come first: they let more through.
        self._rules = (*(Rule(package, homes=tuple(self._allow)) for package in self._allow), *_RULES)
        wanted: dict[str, str] = {}
        for where, node in _nodes(parts):
            self._check_options(where, node)
            wanted.setdefault(node["_target_"], where)
        rules = {name: self._rule(where, name) for name, where in wanted.items()}
        self._found = {name: self._find(where, name, rules[name]) for name, where in wanted.items()}

    def __call__(self, part: str) -> Any:
        """The object of a part. Raises InputError if it does not take its arguments."""
        return self._make(self._parts[part], part)

    def _check_options(self, where: str, node: dict[Any, Any]) -> None:
        for key, kind in _OPTIONS.items():
            if key in node and type(node[key]) is not kind:
                raise self._refusal(f"{key} of {_short(where)} is not {_WORDS[kind]}")
        if node.get("_convert_", "all") not in ("all", "partial", "object"):
            raise self._refusal(f"_convert_ of {_short(where)} is not all: objects are made from plain data here")
        # Who takes its arguments unmade may make them with Hydra, which looks up what texts refer to.
        if not node.get("_recursive_", True) and _refers(node):
            raise self._refusal(f"{_short(where)} is not _recursive_, and has ${{...}} in it")

    def _rule(self, where: str, name: str) -> Rule:
        """The rule that lets a name through, which alone is looked at here. Raises InputError if none does."""
        if "." not in name or not all(part.isidentifier() for part in name.split(".")):
            raise self._refusal(f"{_asks(where, name)}, which is no name of a class or function in a module")
        rule = next((rule for rule in self._rules if rule.covers(name)), None)
        if rule is None:
            raise self._refusal(f"{_asks(where, name)}; {_ALLOWED}", self._package(name))
        if any(part.startswith("_") for part in rule.rest(name)):
            raise self._refusal(f"{_asks(where, name)}, which is private")
        return rule

    def _find(self, where: str, name: str, rule: Rule) -> Any:
        """The class or function of a name. Raises InputError if there is none that the rule lets through."""
        asks = _asks(where, name)
        try:
            found = importlib.import_module(rule.package)
            for part in rule.rest(name):
                found = _member(found, part, rule)
        except Exception as error:
            raise self._refusal(f"{asks}, which cannot be had: {_short(one_line(error))}") from error
        if not inspect.isclass(found) and not inspect.isroutine(found):
            raise self._refusal(f"{asks}, which is neither a class nor a function")
        home = getattr(found, "__module__", None)
        if not rule.is_home(home):
            raise self._refusal(f"{asks}, which is defined in {home}; {_ALLOWED}", self._package(f"{home}.it"))
        if rule.bases and not (inspect.isclass(found) and issubclass(found, rule.bases)):
            kinds = " or ".join(base.__name__ for base in rule.bases)
            raise self._refusal(f"{asks}, which is no {kinds}; {_ALLOWED}", self._package(name))
        return found

    def _package(self, name: str) -> str:
        """What to allow for a name: its package, but of a library that is used in part no more than the module."""
        top = name.split(".")[0]
        return name.rpartition(".")[0] if top in _LIBRARIES else top

    def _refusal(self, problem: str, package: str | None = None) -> InputError:
        advice = ""
        if package is not None and package.split(".")[0] in sys.stdlib_module_names:
            advice = "; this comes with Python itself and makes no model: better not trust the file"
        elif package is not None:
            packages = list(dict.fromkeys([*self._allow, package]))
            advice = f"; to allow more, only if you trust the file: {self._hint(packages)}"
        return InputError(f"checkpoint {self._path}: {problem}{advice}")

    def _make(self, config: Any, where: str) -> Any:
        if type(config) is list:
            return [self._make(value, _below(where, index)) for index, value in enumerate(config)]
        if type(config) is not dict:
            return config
        is_object = "_target_" in config
        if not is_object or config.get("_recursive_", True):
            config = {key: self._make(value, _below(where, key)) for key, value in config.items()}
        if not is_object:
            return config
        target = self._found[config["_target_"]]
        arguments = config.get("_args_", ())
        options = {key: value for key, value in config.items() if key not in _OPTIONS and key != "_convert_"}
        with told(config["_target_"], where):
            if config.get("_partial_", False):
                return partial(target, *arguments, **options)
            return target(*arguments, **options)


@contextmanager
def told(name: str, where: str) -> Iterator[None]:
    """While an object is made: any failure is one of the values in the file. Raises InputError, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot make {name} for {_short(where)}: {_short(one_line(error))}") from error


def _nodes(config: Any, where: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dict with a `_target_`, wherever it is, and its place."""
    if type(config) is dict:
        if "_target_" in config:
            yield where, config
        for key, value in config.items():
            yield from _nodes(value, _below(where, key))
    elif type(config) is list:
        for index, value in enumerate(config):
            yield from _nodes(value, _below(where, index))


def _refers(config: Any) -> bool:
    """Whether a text in it is more than itself for OmegaConf."""
    if type(config) is dict:
        return any(_refers(value) for value in config.values())
    if type(config) is list:
        return any(_refers(value) for value in config)
    return isinstance(config, str) and "${" in config


def _member(owner: Any, part: str, rule: Rule) -> Any:
    """One step along a name, from a module or class to what is in it.

    Only modules of packages of which all may be used are imported on the way; of a library those that are there.

    Raises:
        InputError: if the step leaves the package.
    """
    if isinstance(owner, ModuleType):
        if not hasattr(owner, part) and not rule.bases:
            importlib.import_module(f"{owner.__name__}.{part}")
        found = getattr(owner, part)
        if isinstance(found, ModuleType) and not f"{found.__name__}.".startswith(f"{rule.package}."):
            raise InputError(f"its {part} is the module {found.__name__} of another package")
        return found
    within = inspect.isclass(owner) and rule.is_home(owner.__module__)
    if within and isinstance(inspect.getattr_static(owner, part), classmethod | staticmethod | type):
        return getattr(owner, part)
    raise InputError(f"{part} is no class or class method in it")


def _below(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _asks(where: str, name: str) -> str:
    return f"{_short(where)} asks for {_short(name)}"


def _short(text: str, length: int = 300) -> str:
    """A text from a file as it may be shown: a line of letters that are what they look like, not too long."""
    text = ascii(text)[1:-1]
    return text if len(text) <= length else f"{text[: length // 2]}...{text[-length // 2 :]}"
