"""What the configuration in a checkpoint may make: a file may come from anywhere.

The rule, which no file can change: classes and functions defined in `metronome.models` and `metronome.data`; in the
project's own packages, which lie beside `metronome` in the `src` of its checkout; plain layers, optimizers, schedulers
and numeric metrics of torch and torchmetrics; and what is in the packages that a user allows by name.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from metronome.units import InputError


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
RULES = (
    Rule("metronome.models"),
    Rule("metronome.data"),
    Rule("torch.nn", (nn.Module,), ("torch.nn.modules",)),
    Rule("torch.optim", (Optimizer, LRScheduler)),
    Rule("torchmetrics", (Metric,), tuple(f"torchmetrics.{part}" for part in (*_METRICS, "wrappers"))),
)
_LIBRARIES = {rule.package.split(".")[0] for rule in RULES}
# What once was in metronome.data and metronome.models.networks, and is now in a project's own data and models.
_MOVED = {
    "metronome.data": {"data": ("Digits", "FashionMNIST", "Images", "Linear", "MNIST")},
    "metronome.models.networks": {"models": ("cnn", "linear", "mlp", "resnet")},
}


def own_packages() -> list[str]:
    """The packages that lie beside `metronome` in the `src` of a checkout: a project's own, of which all may be used.

    Where `metronome` is installed there is none: beside it lies what anybody has written.
    """
    source = _source()
    if source.name != "src" or not (source.parent / "pyproject.toml").is_file():
        return []
    return sorted(file.parent.name for file in source.glob("*/__init__.py") if file.parent.name != "metronome")


def _source() -> Path:
    return Path(__file__).parents[3]


def allowed_in_words() -> str:
    """What may be used without being allowed by name."""
    own = "".join(f"{package}, " for package in own_packages())
    return (
        f"allowed are {own}metronome.models, metronome.data, layers of torch.nn, optimizers and schedulers of "
        "torch.optim and numeric metrics of torchmetrics"
    )


def name_now(name: str) -> str:
    """The name of what a checkpoint from before a move asks for; any other name as it is."""
    package, _, last = name.rpartition(".")
    for room, names in _MOVED.get(package, {}).items():
        for own in own_packages():
            if last in names and (_source() / own / room).is_dir():
                return f"{own}.{room}.{last}"
    return name


def name_after_renaming(name: str) -> str | None:
    """What a name in a package that is not here may be now, if the project's own package was renamed; None otherwise.

    Nothing of what the file names is imported.
    """
    top, _, rest = name.partition(".")
    own = own_packages()
    if not top.isidentifier() or importlib.util.find_spec(top) is not None or len(own) != 1:
        return None
    return f"{own[0]}.{rest}"


def package_to_allow(name: str) -> str:
    """The package to allow for a name; of a library that is used in part no more than the module."""
    top = name.split(".")[0]
    return name.rpartition(".")[0] if top in _LIBRARIES else top


def member(owner: Any, part: str, rule: Rule) -> Any:
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


def packages_of(allow: str | Iterable[str]) -> list[str]:
    """The packages that a user allows. Raises InputError for what can be none."""
    packages = allow.split(",") if isinstance(allow, str) else list(allow)
    for package in packages:
        if not isinstance(package, str) or not all(part.isidentifier() for part in package.split(".")):
            raise InputError(f"allow={package!r} is no package; write its name as in an import, such as mypackage")
    return packages
