"""A training that ends where it no longer improves."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as LightningsEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn

from metronome.training.checkpoints.monitored import check_mode, settle
from metronome.units import InputError, check_number

log = logging.getLogger("metronome.early_stopping")


class EarlyStopping(LightningsEarlyStopping):
    """Ends a training at the validation at which a metric has not improved for so many in a row, or is not finite.

    Lightning's, judged at each validation wherever in an epoch, and before checkpoints are written that take it for
    done: a run that goes on ends at the step at which it would have. The patience is that of the configuration, not of
    the checkpoint.

    Args:
        monitor: the metric.
        patience: validations in a row without an improvement, the last of which ends the training.
        min_delta: an improvement is one by more than this, in the unit of the metric.
        mode: min where low values are good, or max; None: as the torchmetric that is monitored says, or its name.
        options: those of Lightning's, but for `check_on_train_epoch_end`.

    Raises:
        InputError: for a value that is none; in a fit, for a metric that is not logged, or of which nothing tells the
            mode.
    """

    def __init__(
        self, monitor: str, *, patience: int = 3, min_delta: float = 0.0, mode: str | None = None, **options: Any
    ) -> None:
        if not isinstance(monitor, str) or not monitor:
            raise InputError(f"early stopping needs the name of a metric, such as val/loss; monitor={monitor}")
        check_number("patience", patience, "validations")
        if isinstance(min_delta, bool) or not isinstance(min_delta, int | float) or not min_delta >= 0:
            raise InputError(f"min_delta={min_delta!r} is not a difference from 0 up, in the unit of {monitor}")
        check_mode(mode, "mode of early stopping: mode")
        super().__init__(
            monitor, min_delta, patience, mode=mode or "min", check_on_train_epoch_end=False, **options
        )  # fmt: skip
        self.open_mode = "mode" if mode is None else None
        self.best_step: int | None = None

    @property
    def why(self) -> str | None:
        """Why it has ended the training; None if it has not."""
        value = f"{float(self.best_score):.4g}"
        match self.stopping_reason:
            case EarlyStoppingReason.PATIENCE_EXHAUSTED if self.best_step is None:
                return f"no value of {self.monitor} in {self.wait_count} validations"
            case EarlyStoppingReason.PATIENCE_EXHAUSTED:
                many = f"{self.wait_count} validation{'s' if self.wait_count > 1 else ''}"
                return f"no better {self.monitor} for {many}; best {value} at step {self.best_step:,}"
            case EarlyStoppingReason.NON_FINITE_METRIC:
                return f"{self.monitor} is not finite"
            case EarlyStoppingReason.STOPPING_THRESHOLD:
                return f"{self.monitor} has come to {self.stopping_threshold:g}"
            case EarlyStoppingReason.DIVERGENCE_THRESHOLD:
                return f"{self.monitor} is beyond {self.divergence_threshold:g}"
        return None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            settle(self, pl_module)
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self.strict and not trainer.fast_dev_run and self.monitor not in trainer.callback_metrics:  # pyright: ignore
            names = ", ".join(sorted(map(str, trainer.callback_metrics))) or "nothing"
            raise InputError(f"monitor={self.monitor} of early stopping is not logged; there is: {names}")
        before = self.best_score
        super().on_validation_end(trainer, pl_module)
        if self.best_score is not before:
            self.best_step = trainer.global_step

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.why is not None and trainer.is_global_zero:
            log.info("stopped early: %s", self.why)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})
        self.best_step = state_dict.get("best_step")
