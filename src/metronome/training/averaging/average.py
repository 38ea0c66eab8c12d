"""An average of the weights, kept beside a training: what is validated, saved as a checkpoint's weights, tested."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from metronome.units import Duration, InputError, Plan

_KEY = "averages"  # in a checkpoint: the state of each, by the name of its class
_PREFIX = "module."  # of the averaged module's names


class Average(WeightAveraging):
    """Lightning's WeightAveraging, exact in a run that is cut off, and in our units.

    Where Lightning's differs: before the first update the training's own weights are validated and saved (it takes the
    first weights of all); a run that has ended and goes on for longer goes on from the weights that it was trained with
    (it takes the average for them); the average has the training's precision and lies on its device; counters in
    buffers are copied, and not averaged.

    A subclass says in `after_step` how the average is updated. The average and the weights that are trained are both in
    each checkpoint: the average as its weights (`state_dict`), the others as `current_model_state`. Of several averages
    that have begun the one that `precedes` the others is validated, and all are kept.

    Raises:
        InputError: where a strategy shards weights, and beside another of the same kind, or one of Lightning's.
    """

    precedes = 0  # an average of a larger number goes before

    def __init__(self) -> None:
        super().__init__()
        self._trained: dict[str, Tensor] | None = None  # the weights that were trained, once the average took over

    # ---- for a subclass ---------------------------------------------------------------------------------------

    def after_step(self, trainer: Any, module: L.LightningModule) -> None:
        """Called after each step, at which `_mix` may be called."""
        raise NotImplementedError

    def ready(self, trainer: Any, module: L.LightningModule) -> None:
        """Called when the module has the averaged weights, before they are used."""

    def _leads(self, trainer: Any) -> bool:
        """Whether this is the average that is used."""
        begun = [each for each in trainer.callbacks if isinstance(each, Average) and each.updates]
        return bool(begun) and max(begun, key=lambda each: each.precedes) is self

    def _is_apart(self, trainer: Any) -> bool:
        """Whether it has not yet taken over for good."""
        return self._leads(trainer) and self._trained is None

    @property
    def updates(self) -> int:
        """How often the average was updated; 0: there is none yet."""
        return 0 if self._average_model is None else int(self._average_model.n_averaged)

    @torch.no_grad()
    def _mix(self, module: L.LightningModule, part: float) -> None:
        """Move the average by this part of the way to the weights as they are; all of the way the first time."""
        assert self._average_model is not None
        part = part if self.updates else 1.0
        pairs = list(zip(_tensors(self._average_model.module), _tensors(module), strict=True))
        means = [(mean, now) for mean, now in pairs if mean.is_floating_point() or mean.is_complex()]
        others = [(mean, now) for mean, now in pairs if not (mean.is_floating_point() or mean.is_complex())]
        for mean, now in pairs if part == 1.0 else others:
            mean.copy_(now)
        if part != 1.0 and means:
            torch._foreach_lerp_([mean for mean, _ in means], [now for _, now in means], part)  # pyright: ignore
        self._average_model.n_averaged += 1

    # ---- what Lightning calls ---------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: L.LightningModule, stage: str) -> None:
        self._trained = None
        if stage != "fit":
            return
        if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            raise InputError(
                f"{type(trainer.strategy).__name__} shards weights, and {type(self).__name__} averages whole ones; use "
                "trainer.strategy=auto or ddp"
            )
        others = [each for each in trainer.callbacks if isinstance(each, WeightAveraging | StochasticWeightAveraging)]
        if other := [each for each in others if each is not self and not _may_stand_beside(self, each)]:
            raise InputError(
                f"{type(self).__name__} and {type(other[0]).__name__} both put their average in place of the weights; "
                "take one of them"
            )
        precision = trainer.precision_plugin
        if isinstance(precision, DoublePrecision | HalfPrecision):
            precision.convert_module(pl_module)  # Lightning does it later, when the average is made
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: Any, pl_module: L.LightningModule, *args: Any) -> None:
        self.after_step(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: L.LightningModule) -> None: ...

    def on_validation_epoch_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._is_apart(trainer):
            self._swap_models(pl_module)
            self.ready(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._is_apart(trainer):
            self._swap_models(pl_module)

    def on_train_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._is_apart(trainer):
            self._swap_models(pl_module)
            self.ready(trainer, pl_module)
            self._swap_models(pl_module)
            self._trained = {name: _clone(value) for name, value in pl_module.state_dict().items()}
            self._copy_average_to_current(pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.updates:
            return
        assert self._average_model is not None
        state = self._average_model.state_dict()
        checkpoint.setdefault(_KEY, {})[type(self).__name__] = state  # one that is in the file twice is written once
        if self._leads(trainer):
            checkpoint["current_model_state"] = checkpoint["state_dict"] if self._trained is None else self._trained
            weights = {name: value for name, value in state.items() if name.startswith(_PREFIX)}
            checkpoint["state_dict"] = {name.removeprefix(_PREFIX): value for name, value in weights.items()}

    def on_load_checkpoint(self, trainer: Any, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is None:
            return  # a test: of what the checkpoint has for its weights
        own = checkpoint.get(_KEY, {}).get(type(self).__name__)
        if own is not None:
            self._average_model.load_state_dict(own)
        if "current_model_state" in checkpoint:
            pl_module.load_state_dict(checkpoint["current_model_state"])
            if own is None and _KEY not in checkpoint:  # Lightning's own average goes on as this one
                super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def _may_stand_beside(own: Average, other: Any) -> bool:
    return isinstance(other, Average) and type(other) is not type(own)


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


def _clone(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def plan_of(trainer: Any, name: str, duration: Duration) -> Plan | None:
    """The run's plan. Raises InputError where a duration needs one, and the data have no length."""
    plan = getattr(trainer, "plan", None)
    if duration.unit == "seconds":
        raise InputError(f"{name}={duration} is a time; give steps, epochs, samples or %")
    if plan is None and duration.unit != "steps":
        raise InputError(f"{name}={duration} needs training data of a known length; give it in steps")
    if plan is not None and plan.total_steps is None and duration.unit == "percent":
        raise InputError(f"{name}={duration} needs a training with a known end; give it in epochs, steps or samples")
    return plan
