"""Classification: one label a sample."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from metronome.models.supervised import Supervised
from metronome.units import InputError, check_number


class Classifier(Supervised):
    """Cross-entropy and accuracy over batches `(inputs, labels)`, labels int64 of shape (samples,).

    Logs `train/loss` each step, and `train/loss_epoch`, `train/acc`, `val/loss`, `val/acc`, `test/loss`, `test/acc`
    over all samples of an epoch.

    Args:
        num_classes: classes; the network's outputs have shape (samples, num_classes).
        label_smoothing: part of the probability spread over all classes in training, from 0 to 1.
        options: those of `Supervised`.

    Raises:
        InputError: at a label out of range.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        check_number("model.num_classes", num_classes, "classes")
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing <= 1:
            raise InputError(f"model.label_smoothing={label_smoothing} is not a part from 0 to 1")
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.train_acc, self.val_acc, self.test_acc = (
            MulticlassAccuracy(num_classes, average="micro", validate_args=False) for _ in range(3)
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # Here labels are still in main memory; on a GPU looking at them would halt it at every step. Those of a data
        # set that is kept there have been looked at before.
        self.check_batch(batch)
        return batch

    def check_batch(self, batch: Any) -> None:
        """Raises InputError for labels that the loss does not take; their values are looked at in main memory only."""
        _, labels = self.parts(batch)
        if labels.is_floating_point():
            raise InputError(
                f"labels are whole numbers, and these are {labels.dtype}; for numbers to fit use a Regressor"
            )
        if labels.dtype not in (torch.int64, torch.uint8) or labels.ndim != 1:
            raise InputError(
                f"labels are int64, one a sample, and these are {labels.dtype} of shape {tuple(labels.shape)}; "
                "bring them to it with .long(), .flatten() or .argmax(dim=1)"
            )
        if labels.device.type == "cpu" and len(labels):
            low, high = torch.aminmax(labels)
            if low < 0 or high >= self.num_classes:
                wrong = int(low) if low < 0 else int(high)
                raise InputError(
                    f"label {wrong} is out of range: the model has {self.num_classes} classes, 0 to "
                    f"{self.num_classes - 1}; set model.num_classes to the number of classes in the data"
                )

    def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        logits = self(inputs)
        if logits.shape[-1] != self.num_classes:
            raise InputError(
                f"the network has {logits.shape[-1]} outputs and the model {self.num_classes} classes; "
                "set model.network.num_outputs to model.num_classes"
            )
        smoothing = self.label_smoothing if self.training else 0.0
        return cross_entropy(logits, labels, label_smoothing=smoothing), logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, logits = self.loss_and_outputs(batch)
        self.train_acc.update(logits.detach(), batch[1])
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        self.log("train/loss_epoch", loss, on_step=False, on_epoch=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_acc)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_acc)

    def _evaluate(self, batch: Any, stage: str, accuracy: MulticlassAccuracy) -> None:
        loss, logits = self.loss_and_outputs(batch)
        accuracy.update(logits, batch[1])
        self.log(f"{stage}/loss", loss, prog_bar=True)
        self.log(f"{stage}/acc", accuracy, prog_bar=True)
