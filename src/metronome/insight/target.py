"""A training that ends where it has what was asked of it."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn

from metronome.training.checkpoints.monitored import check_mode, settle
from metronome.units import InputError, check_number

log = logging.getLogger("metronome.target")


class StopAtTarget(EarlyStopping):
    """Stops at the validation at which a metric has had the hardest of some values so many times in a row, or is not
    finite, from where it cannot come back.

    How often it has had it is kept in checkpoints: a run that goes on stops where it would have stopped.

    Args:
        monitor: the metric.
        values: one, or several; the hardest counts.
        mode: min where low values are good, or max; None: as the torchmetric that is monitored says, or its name.
        confirm: validations in a row.

    Raises:
        InputError: for a value that is none.
    """

    def __init__(
        self, monitor: str, values: float | Sequence[float], mode: str | None = None, confirm: int = 1
    ) -> None:
        check_number("confirm", confirm, "validations")
        given = [values] if isinstance(values, int | float) else list(values)
        if not given or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in given):
            raise InputError(f"values={values} of a target are not numbers")
        check_mode(mode, "mode of a target: mode")
        super().__init__(monitor, mode=mode or "min", check_on_train_epoch_end=False)
        self.open_mode = "mode" if mode is None else None
        self.values = [float(value) for value in given]
        self.confirm, self.in_a_row = confirm, 0
        self.why: str | None = None  # it has ended the training

    @property
    def target(self) -> float:
        """The hardest of the values."""
        return min(self.values) if self.mode == "min" else max(self.values)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            settle(self, pl_module)
        super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None: ...  # a validation tells

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            logged = ", ".join(map(str, trainer.callback_metrics)) or "nothing"
            raise InputError(f"a target for {self.monitor} needs it at each validation; what was logged: {logged}")
        number = float(value)
        has_it = number <= self.target if self.mode == "min" else number >= self.target
        self.in_a_row = self.in_a_row + 1 if has_it else 0
        is_over = self.in_a_row >= self.confirm or not math.isfinite(number)
        if trainer.strategy.reduce_boolean_decision(is_over, all=False):
            trainer.should_stop, self.stopped_epoch = True, trainer.current_epoch
            self.why = f"{self.monitor} is {number:.4g}"
            log.info("%s is %g after %s steps: the training ends", self.monitor, number, f"{trainer.global_step:,}")

    @property
    def state_key(self) -> str:
        return f"StopAtTarget({self.monitor}, {self.mode}, {self.target})"

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.in_a_row = state_dict["in_a_row"]
