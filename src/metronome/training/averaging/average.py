"""An average of the weights, kept beside a training: what is validated, saved as the checkpoint's weights, and tested."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from metronome.units import Duration, InputError, Plan


class Average(WeightAveraging):
    """Lightning's WeightAveraging, exact in a run that is cut off, and in our units.

    Where Lightning's differs: before the first update the training's own weights are validated and saved (it takes the
    first weights of all); a run that has ended and goes on for longer goes on from the weights that it was trained with
    (it takes the average for them); the average has the training's precision and lies on its device; counters in
    buffers are copied, and not averaged.

    A subclass says in `after_step` how the average is updated. The average and the weights that are trained are both in
    each checkpoint: the average as its weights (`state_dict`), the others as `current_model_state`.

    Raises:
        InputError: where a strategy shards weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trained: dict[str, Tensor] | None = None  # the weights that were trained, once the average took over

    # ---- for a subclass ---------------------------------------------------------------------------------------

    def after_step(self, trainer: Any, module: L.LightningModule) -> None:
        """Called after each step, at which `_mix` may be called."""
        raise NotImplementedError

    def ready(self, trainer: Any, module: L.LightningModule) -> None:
        """Called when the module has the averaged weights, before they are used."""

    @property
    def _is_apart(self) -> bool:
        """Whether there is an average that has not yet taken over for good."""
        return self.updates > 0 and self._trained is None

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
        precision = trainer.precision_plugin
        if isinstance(precision, DoublePrecision | HalfPrecision):
            precision.convert_module(pl_module)  # Lightning does it later, when the average is made
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer: Any, pl_module: L.LightningModule, *args: Any) -> None:
        self.after_step(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: L.LightningModule) -> None: ...

    def on_validation_epoch_start(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._is_apart:
            self._swap_models(pl_module)
            self.ready(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._is_apart:
            self._swap_models(pl_module)

    def on_train_end(self, trainer: Any, pl_module: L.LightningModule) -> None:
        if self._is_apart:
            self._swap_models(pl_module)
            self.ready(trainer, pl_module)
            self._swap_models(pl_module)
            self._trained = {name: _clone(value) for name, value in pl_module.state_dict().items()}
            self._copy_average_to_current(pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.updates:
            return
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trained is not None:
            checkpoint["current_model_state"] = self._trained

    def on_load_checkpoint(self, trainer: Any, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is None:
            return  # a test: of what the checkpoint has for its weights
        if "current_model_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


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
