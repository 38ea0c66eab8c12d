"""Every hook of Lightning overridden, each noting that it was called, with what, and how the training stood."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer

Entry = Any  # a tuple
# Public methods that are no hooks: what a user calls, and what is refused where something else is overridden.
_NO_HOOKS = {
    "configure_sharded_model", "forward", "remove_ignored_hparams", "save_hyperparameters", "to_onnx", "to_tensorrt",
    "to_torchscript",
}  # fmt: skip


def hooks_of(base: type) -> list[str]:
    """The public methods that Lightning gives to one of its classes: all that it may call."""
    names = {
        name
        for owner in base.__mro__
        if owner.__module__.startswith("lightning.")
        for name, thing in vars(owner).items()
        if inspect.isfunction(thing) and not name.startswith("_")
    }
    return sorted(names - _NO_HOOKS)


class Journal(list[Entry]):
    """What was called, in its order: (within which hooks, owner and hook, arguments, how the training stood), and what
    each returned."""

    def __init__(self) -> None:
        super().__init__()
        self.trainer: L.Trainer | None = None
        self._within: list[str] = []

    def note(self, owner: str, hook: str, *arguments: Any, **options: Any) -> None:
        called = f"{owner}.{hook}", summary(arguments), summary(options)
        self.append((" > ".join(self._within), *called, *_standing(self.trainer)))

    def recording(self, kind: Any, base: type, *names: str) -> Any:
        """The class with each hook of `base` (or these) overridden: it notes the call, and does what it did before."""
        return type(kind)(kind.__name__, (kind,), {name: self._noting(kind, name) for name in names or hooks_of(base)})

    def _noting(self, kind: type, name: str) -> Callable[..., Any]:
        was = getattr(kind, name)

        def hook(owner: Any, *arguments: Any, **options: Any) -> Any:
            self.note(kind.__name__, name, *arguments, **options)
            self._within.append(name)
            try:
                output = was(owner, *arguments, **options)
            finally:
                self._within.pop()
            self.append((" > ".join(self._within), f"{kind.__name__}.{name} returned", summary(output)))
            return output

        hook.__name__ = name
        hook.__signature__ = inspect.signature(was)  # pyright: ignore  # Lightning looks at the arguments' names
        return hook


class Values(Callback):
    """Notes in each of its hooks what the trainer knows of logged values."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def _note(self, hook: str, trainer: L.Trainer) -> None:
        known = trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics
        self.journal.note("values", hook, *({name: float(value) for name, value in sorted(k.items())} for k in known))


def _noting_values(name: str) -> Callable[..., None]:
    return lambda self, trainer, *_: self._note(name, trainer)


for _name in hooks_of(Callback):
    if _name.startswith("on_") and _name not in ("on_exception", "on_load_checkpoint", "on_save_checkpoint"):
        setattr(Values, _name, _noting_values(_name))


# ---- how it stood ------------------------------------------------------------------------------------------


def _standing(trainer: L.Trainer | None) -> list[str]:
    """How far a training has come, in Lightning's own counters."""
    module = None if trainer is None else trainer.lightning_module
    if trainer is None or module is None:
        return []
    loop = trainer.fit_loop.epoch_loop
    optimizer = loop.automatic_optimization.optim_progress.optimizer
    rates = [group["lr"] for o in trainer.optimizers for group in o.param_groups]
    return [
        f"epoch {trainer.current_epoch}, step {trainer.global_step}, {trainer.state.fn}, {trainer.state.stage}",
        f"in {module._current_fx_name}, training {module.training}, grad {torch.is_grad_enabled()}",
        f"stop {trainer.should_stop}, last batch {loop.batch_progress.is_last_batch}, rates {rates}",
        f"batches {_counts(loop.batch_progress)}, logged steps {loop._batches_that_stepped}",
        f"steps {_counts(optimizer.step)}, schedulers {_counts(loop.scheduler_progress)}",
        f"validation {_counts(loop.val_loop.batch_progress)}, epochs {_counts(trainer.fit_loop.epoch_progress)}",
        f"weights {[digest(p) for p in module.parameters()]}",
        f"zeroed {_counts(optimizer.zero_grad)}",
        f"gradients {[None if p.grad is None else digest(p.grad) for p in module.parameters()]}",
    ]


def _counts(progress: Any) -> str:
    return " ".join(f"{name} {list(vars(getattr(progress, name)).values())}" for name in ("current", "total"))


def summary(value: Any) -> Any:
    """What two calls are compared by: numbers and tensors by their bits, other objects by their class."""
    if isinstance(value, str):
        value = str(value)  # of an enumeration too
        return Path(value).name if value.startswith("/") else value  # folders are different ones
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Tensor):
        number = f" {value.item()!r}" if value.numel() == 1 else ""
        return f"{value.dtype}{list(value.shape)} {digest(value)}{number} graph {value.requires_grad}"
    if isinstance(value, Mapping):
        if "pytorch-lightning_version" in value:
            return ["checkpoint", value["epoch"], value["global_step"], *sorted(value)]
        return {summary(name): summary(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(summary, value)]
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, Path):
        return value.name
    if callable(value) and not isinstance(value, nn.Module | Optimizer):
        return "callable"
    return type(value).__name__


def digest(tensor: Tensor) -> str:
    """A tensor's bits, in short."""
    return hashlib.sha256(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:8]


# ---- two journals compared ---------------------------------------------------------------------------------


def difference(stock: Iterable[Entry], ours: Iterable[Entry]) -> str:
    """The first place where two journals part, and what went before; nothing if they do not."""
    a, b = list(stock), list(ours)
    for i in range(max(len(a), len(b))):
        if a[i : i + 1] != b[i : i + 1]:
            before = "\n".join(f"  both   {entry[1]}" for entry in a[max(0, i - 5) : i])
            there, here = (_told(entries[i]) if i < len(entries) else "nothing more" for entries in (a, b))
            return f"entry {i}:\n{before}\n  stock  {there}\n  ours   {here}"
    return ""


def _told(entry: Entry) -> str:
    return "\n         ".join(map(str, entry))
