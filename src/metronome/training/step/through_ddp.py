"""`training_step` by way of DistributedDataParallel, in the one pass of a step in which gradients meet."""

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.modules import module as hooks_of_all
from torch.nn.parallel import DistributedDataParallel

from metronome.training.lightning_private import ddp_options

# Options of DistributedDataParallel that change nothing of a pass in which gradients do not meet.
_HARMLESS = {"bucket_cap_mb", "broadcast_buffers", "check_reduction", "find_unused_parameters"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NONE = object()


class ThroughDDP:
    """Calls a module's `training_step` as Lightning's strategy does, as the `forward` of the wrapper's module; the
    attribute is written straight into the module's books, since `nn.Module` looks three times at what is set on it.

    As a context it is around a pass in which gradients do not meet: what else there is that calls the wrapper, or asks
    it, finds it as in `no_sync`.

    Args:
        module: of the training.
        wrapper: that makes gradients meet.
    """

    def __init__(self, module: L.LightningModule, wrapper: DistributedDataParallel) -> None:
        self.module, self.wrapper, self._books, self._flags = module, wrapper, vars(module), vars(wrapper)
        self._hooks = [getattr(owner, name) for owner in (module, wrapper) for name in _HOOKS]
        self._hooks += [getattr(hooks_of_all, f"_global{name}") for name in _HOOKS]

    def __enter__(self) -> None:
        self._flags["require_backward_grad_sync"] = False

    def __exit__(self, *_: object) -> None:
        self._flags["require_backward_grad_sync"] = True

    def alone(self, *arguments: Any) -> Any:
        """A pass in which gradients do not meet: past the wrapper, unless somebody's hooks see each call."""
        if any(self._hooks):
            return self(*arguments)
        # What torch.compile meets here first it cuts where buckets of gradients are full, so that they are sent while
        # the rest is computed; it makes one piece of what it meets elsewhere, and keeps it for the last pass too.
        with self.wrapper._inside_ddp_forward():
            return self.module.training_step(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        """A pass by way of the wrapper."""
        books = self._books
        before = books.get("forward", _NONE)

        def as_it_was() -> None:
            if books.get("forward") is not forward:
                return  # training_step has put another there
            if before is _NONE:
                del books["forward"]
            else:
                books["forward"] = before

        def forward(*arguments: Any, **named: Any) -> Any:
            as_it_was()  # training_step may call it
            return self.module.training_step(*arguments, **named)

        books["forward"] = forward
        try:
            return self.wrapper(*arguments)
        finally:
            as_it_was()


def through_ddp(strategy: Any, module: L.LightningModule) -> ThroughDDP | None:
    """For a strategy whose wrapper is needed only where gradients meet; None where it does more.

    It does where it gives all devices the first one's buffers, which it does in the first pass of a step; with options
    that change how gradients are kept.
    """
    wrapper = strategy.model
    if not isinstance(strategy, DDPStrategy) or type(wrapper) is not DistributedDataParallel:
        return None
    shares_buffers = wrapper.broadcast_buffers and wrapper.modules_buffers
    if shares_buffers or not set(ddp_options(strategy)) <= _HARMLESS:
        return None
    return ThroughDDP(module, wrapper)
