"""A training that ends where it has what was asked of it."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from metronome.units import InputError, check_number


class StopAtTarget(EarlyStopping):
    """Stops at the validation at which a metric has had the hardest of some values so many times in a row, or is not
    finite, from where it cannot come back.

    How often it has had it is kept in checkpoints: a run that goes on stops where it would have stopped.

    Args:
        monitor: the metric.
        values: one, or several; the hardest counts.
        mode: min where low values are good, or max.
        confirm: validations in a row.

    Raises:
        InputError: for a value that is none.
    """

    def __init__(self, monitor: str, values: float | Sequence[float], mode: str = "min", confirm: int = 1) -> None:
        check_number("confirm", confirm, "validations")
        given = [values] if isinstance(values, int | float) else list(values)
        if not given or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in given):
            raise InputError(f"values={values} of a target are not numbers")
        if mode not in ("min", "max"):
            raise InputError(f"mode={mode} of a target is neither min nor max")
        super().__init__(monitor, mode=mode, check_on_train_epoch_end=False)
        self.target = float(min(given) if mode == "min" else max(given))
        self.confirm, self.in_a_row = confirm, 0

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        if not torch.isfinite(current):
            return True, f"{self.monitor} is {float(current)}"
        has_it = current <= self.target if self.mode == "min" else current >= self.target
        self.in_a_row = self.in_a_row + 1 if has_it else 0
        if self.in_a_row < self.confirm:
            return False, None
        return True, f"{self.monitor} has come to {self.target} in {self.confirm} validations in a row"

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor, mode=self.mode, target=self.target)

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.in_a_row = state_dict["in_a_row"]
