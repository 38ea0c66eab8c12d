"""The hooks that somebody has written, looked up once a fit; only these are called."""

import inspect
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler

from metronome.training.lightning_private import call_callback_hooks, call_module_hook

# Of a step, in their order.
_NAMES = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip


class Hooks:
    """Calls a hook of every callback that has it, then that of the module: Lightning's order and arguments.

    Lightning calls all of them, most of which do nothing, each in a profiler's context, and notes the name of each
    on the module by way of `Module.__setattr__`: most of the time of a small step. Under a profiler its own way is
    taken, so that each hook has its line.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self.trainer, self.module = trainer, trainer.lightning_module
        self.is_profiled = type(trainer.profiler) is not PassThroughProfiler  # pyright: ignore
        self._books = vars(self.module)  # `self.log` looks there for the hook that it is called from
        # Whose they are; the hook itself is taken when it is called, for another may have been put in its place.
        self._callbacks: dict[str, list[Callback]] = {}
        self._of_module: dict[str, bool] = {}
        for name in _NAMES:
            self._callbacks[name] = [c for c in trainer.callbacks if is_written(c, name, Callback)]  # pyright: ignore
            self._of_module[name] = is_written(self.module, name, L.LightningModule)

    def has(self, name: str) -> bool:
        """Whether anybody has written this hook."""
        return self.is_profiled or bool(self._callbacks[name]) or self._of_module[name]

    def is_read(self, name: str) -> bool:
        """Whether somebody other than this library and Lightning has written this hook, and may look at what comes."""
        return self._of_module[name] or any(is_foreign(callback, name) for callback in self._callbacks[name])

    def __call__(self, name: str, *arguments: Any) -> Any:
        """What the module's hook returns; None without one."""
        if self.is_profiled:
            call_callback_hooks(self.trainer, name, *arguments)
            return call_module_hook(self.trainer, name, *arguments)
        callbacks, own = self._callbacks[name], self._of_module[name]
        if not callbacks and not own:
            return None
        books = self._books
        before, books["_current_fx_name"] = books["_current_fx_name"], name
        for callback in callbacks:
            getattr(callback, name)(self.trainer, self.module, *arguments)
        response = getattr(self.module, name)(*arguments) if own else None
        books["_current_fx_name"] = before
        return response


def is_written(owner: Any, name: str, base: type) -> bool:
    """Whether an object has a method of its own, in its class or put on it, in the place of that of the base class."""
    return name in vars(owner) or getattr(type(owner), name) is not getattr(base, name)


def is_foreign(owner: Any, name: str) -> bool:
    """Whether neither this library nor Lightning has written a method that an object has."""
    home = getattr(getattr(owner, name), "__module__", None) or ""
    return not home.startswith(("metronome.", "lightning."))


def remember_signature(method: Any) -> None:
    """Keep a method's signature where `inspect` looks first (PEP 362): Lightning asks for it at each `self.log`."""
    function = getattr(method, "__func__", None)
    if inspect.isfunction(function) and not {"__signature__", "__wrapped__"} & set(vars(function)):
        function.__signature__ = inspect.signature(function)  # pyright: ignore
