"""What Metronome relies on in Lightning's private parts, found in the code of both.

`python tests/support/lightning_contract.py` writes it to tests/metronome/training/lightning_contract.json, when one
has read what a release of Lightning has changed, and mended what depends on it.
"""

import ast
import hashlib
import importlib
import inspect
import json
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any

import lightning

SOURCE = Path(__file__).parents[2] / "src/metronome"
CONTRACT = Path(__file__).parents[1] / "metronome/training/lightning_contract.json"
# Private names of others than Lightning, which their own tests keep: torch, torchmetrics, numpy, Python, Hydra.
OTHERS = {
    "_asdict", "_backward_hooks", "_backward_pre_hooks", "_buffers", "_call_impl", "_compiled_call_impl", "_computed",
    "_defaults", "_dynamo", "_enable_grad", "_fields", "_foreach_div_", "_foreach_lerp_", "_foreach_norm",
    "_forward_hooks", "_forward_pre_hooks", "_get_default_store", "_global", "_inside_ddp_forward", "_mkldnn",
    "_modules", "_parameters", "_version",
    "_amp_foreach_non_finite_check_and_unscale_", "_is_synced", "_last_lr", "_pytree", "_reductions",
    "_return_value", "_root_", "_should_unsync", "_sync_buffers", "_target_", "_to_sync", "_update_count",
    "_zeropower_via_newtonschulz",
}  # fmt: skip
OF_GRAPHS = ("_saved_", "_input_metadata")  # what the nodes of PyTorch's autograd graph keep
# Written out anew in a method of another name: where to look when Lightning changes its own.
_LOOPS, _PLUGINS = "lightning.pytorch.loops", "lightning.pytorch.plugins.precision.precision.Precision"
COPIED = {
    f"{_LOOPS}.training_epoch_loop._TrainingEpochLoop.advance": "loops/epoch.py: EpochLoop._make, EpochLoop._log",
    f"{_LOOPS}.training_epoch_loop._TrainingEpochLoop.on_advance_end": "loops/epoch.py: EpochLoop._validate, _close",
    f"{_LOOPS}.optimization.automatic._AutomaticOptimization.run": "step/step.py: Step.__call__",
    f"{_LOOPS}.optimization.automatic._AutomaticOptimization._optimizer_step": "step/step.py: Step.__call__",
    f"{_LOOPS}.optimization.automatic._AutomaticOptimization._training_step": "step/ways.py: Ways.training_step",
    "lightning.pytorch.strategies.strategy.Strategy.backward": "step/ways.py: Ways.backward",
    f"{_PLUGINS}._after_closure": "step/ways.py: Ways.update",
    f"{_PLUGINS}._wrap_closure": "step/ways.py: Ways.update",
}


def collect() -> dict[str, Any]:
    """The contract with the Lightning that is installed."""
    methods = {name: _of(found) | {"see": see} for name, (found, see) in sorted({**_overridden(), **_copied()}.items())}
    return {
        "lightning": lightning.__version__,
        "imported": {name: _of(found) for name, found in sorted(_imported().items())},
        "methods": methods,
        "attributes": {name: sorted(files) for name, files in sorted(_attributes().items())},
    }


def _of(found: Any) -> dict[str, str]:
    """The signature of a class, function or property, and a digest of a function's source."""
    function: Any = found.fget if isinstance(found, property) else inspect.unwrap(getattr(found, "__func__", found))
    signature = "a class" if inspect.isclass(found) else re.sub(r" at 0x\w+", "", str(inspect.signature(function)))
    facts = {"signature": signature}
    if not inspect.isclass(found):
        facts["digest"] = hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]
    return facts


def _imported() -> dict[str, Any]:
    """What lightning_private.py imports, by the name that it has in Lightning."""
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse((SOURCE / "training/lightning_private.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning."):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                thing = getattr(module, alias.name)
                if not inspect.ismodule(thing):
                    found[f"{node.module}.{alias.name}"] = thing
    for name in ("_call_lightning_module_hook", "_call_strategy_hook"):
        found[f"lightning.pytorch.trainer.call.{name}"] = getattr(lightning.pytorch.trainer.call, name)  # pyright: ignore
    return found


def _overridden() -> dict[str, tuple[Any, str]]:
    """Lightning's methods that ours take the place of: all of its private classes, the private ones of its others."""
    found: dict[str, tuple[Any, str]] = {}
    for ours in _our_classes():
        bases = [base for base in ours.__mro__ if base.__module__.startswith("lightning.")]
        for name, thing in vars(ours).items():
            if not (callable(thing) or isinstance(thing, property | classmethod | staticmethod)):
                continue
            owner = next((base for base in bases if name in vars(base)), None)
            if owner is None or (name.startswith("__") and name != "__setitem__"):
                continue
            if bases[0].__name__.startswith("_") or owner.__name__.startswith("_") or name.startswith("_"):
                place = str(Path(inspect.getsourcefile(ours) or "").relative_to(SOURCE))
                found[f"{owner.__module__}.{owner.__name__}.{name}"] = (
                    vars(owner)[name],
                    f"{place}: {ours.__name__}.{name}",
                )
    return found


def _our_classes() -> list[type]:
    import metronome

    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(metronome.__path__, "metronome.")]
    classes = {
        thing for module in modules for thing in vars(module).values()
        if inspect.isclass(thing) and thing.__module__ == module.__name__
    }  # fmt: skip
    return sorted(classes, key=lambda thing: f"{thing.__module__}.{thing.__qualname__}")


def _copied() -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for name, see in COPIED.items():
        owner, _, method = name.rpartition(".")
        module, _, kind = owner.rpartition(".")
        found[name] = vars(getattr(importlib.import_module(module), kind))[method], see
    return found


def _attributes() -> dict[str, set[str]]:
    """Private attributes of Lightning's objects that our files use, and the files."""
    used: dict[str, set[str]] = {}
    ours: set[str] = set()
    for path in [*SOURCE.glob("training/**/*.py"), *SOURCE.glob("insight/*.py")]:  # the others use public names alone
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            name = (
                node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
            )
            if isinstance(name, str) and re.fullmatch(r"_[a-z]\w+", name):  # in texts too, for getattr
                used.setdefault(name, set()).add(str(path.relative_to(SOURCE)))
    return {
        name: files
        for name, files in used.items()
        if name not in OTHERS and not name.startswith(OF_GRAPHS) and (name not in ours or made_in(name))
    }


def made_in(name: str) -> bool:
    """Whether an attribute or method of this name is made anywhere in Lightning."""
    return re.search(rf"(self\.|trainer\.|def |^    ){name}\b *[(:=]", lightning_source(), re.MULTILINE) is not None


@cache
def lightning_source() -> str:
    folder = Path(lightning.__file__).parent / "pytorch"
    parts = ("callbacks/model_checkpoint.py", "callbacks/weight_averaging.py", "callbacks/progress/progress_bar.py",
             "callbacks/stochastic_weight_avg.py", "core/module.py", "loops/**/*.py", "strategies/*.py",
             "trainer/**/*.py", "utilities/combined_loader.py")  # fmt: skip
    return "\n".join(path.read_text() for part in parts for path in sorted(folder.glob(part)))


def main() -> None:
    CONTRACT.write_text(json.dumps(collect(), indent=1) + "\n")
    print(f"written: {CONTRACT}")


if __name__ == "__main__":
    main()
