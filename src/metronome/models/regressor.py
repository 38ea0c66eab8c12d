"""Regression: one or more numbers a sample."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import mse_loss

from metronome.models.supervised import Supervised, inputs_and_targets
from metronome.units import InputError


class Regressor(Supervised):
    """Mean squared error over batches `(inputs, targets)`, targets of the outputs' shape.

    Logs `train/loss` each step, and `train/loss_epoch`, `val/loss`, `val/mae`, `test/loss`, `test/mae` over all
    samples of an epoch (mae: mean absolute error, in the targets' unit; the loss is in its square).

    Raises:
        InputError: if outputs and targets differ in shape.
    """

    def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, targets = self.parts(batch)
        outputs = self(inputs)
        _check_shapes(outputs, targets)
        return mse_loss(outputs, targets), outputs

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, _ = self.loss_and_outputs(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Tensor]:
        """Of a batch of inputs, with targets or without: `prediction`, of the outputs' shape, and `target`."""
        inputs, targets = inputs_and_targets(batch)
        outputs = self(inputs)
        if targets is None:
            return {"prediction": outputs}
        if outputs.numel() == targets.numel() and len(outputs) == len(targets):
            targets = targets.reshape(outputs.shape)  # a column of a file, and outputs of shape (samples, 1)
        _check_shapes(outputs, targets)
        return {"prediction": outputs, "target": targets}

    def metrics_of(self, predicted: Mapping[str, Tensor]) -> dict[str, float]:
        """`loss` and `mae` over all samples, as a test has them, from what `predict_step` gave with targets."""
        errors = predicted["prediction"].double() - predicted["target"].double()
        return {"loss": float(errors.square().mean()), "mae": float(errors.abs().mean())}

    def _evaluate(self, batch: Any, stage: str) -> None:
        loss, outputs = self.loss_and_outputs(batch)
        self.log(f"{stage}/loss", loss, prog_bar=True)
        self.log(f"{stage}/mae", (outputs - batch[1]).abs().mean(), prog_bar=True)


def _check_shapes(outputs: Tensor, targets: Tensor) -> None:
    if outputs.shape != targets.shape:
        # Broadcasting (n, 1) against (n,) would give a number, and a wrong one.
        column = "; for a column of targets write y[:, None]" if outputs.shape == (*targets.shape, 1) else ""
        raise InputError(
            f"the network's outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}; "
            f"they must be equal{column}"
        )
