"""Classification: one label a sample."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from metronome.models.supervised import Supervised, has_targets, inputs_and_targets
from metronome.units import InputError, check_number

# What cross-entropy takes; labels of any other type become int64.
_LABELS = (torch.int64, torch.uint8)


class Classifier(Supervised):
    """Cross-entropy and accuracy over batches `(inputs, labels)`, labels whole numbers of shape (samples,).

    Logs `train/loss` each step, and `train/loss_epoch`, `train/acc`, `val/loss`, `val/acc`, `test/loss`, `test/acc`
    over all samples of an epoch that have a label. With class weights losses are weighted means, accuracies are not.

    Args:
        num_classes: classes; the network's outputs have shape (samples, num_classes).
        label_smoothing: part of the probability spread over all classes in training, from 0 to 1.
        class_weights: how much a sample of each class counts in the loss; None: all the same.
        ignore_index: the label of samples that count nothing.
        options: those of `Supervised`.

    Raises:
        InputError: for class weights that are none; at a label out of range.
    """

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("model.num_classes", num_classes, "classes")
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing <= 1:
            raise InputError(f"model.label_smoothing={label_smoothing} is not a part from 0 to 1")
        if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, int)):
            raise InputError(f"model.ignore_index={ignore_index!r} is not a label, a whole number; -100 is usual")
        self.num_classes, self.label_smoothing, self.ignore_index = num_classes, label_smoothing, ignore_index
        self.class_weights = None if class_weights is None else _checked(class_weights, num_classes)
        self._weights_made: Tensor | None = None
        self.train_acc, self.val_acc, self.test_acc = (
            MulticlassAccuracy(num_classes, average="micro", ignore_index=ignore_index, validate_args=False)
            for _ in range(3)
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # Here labels are still in main memory; on a GPU looking at them would halt it at every step. Those of a data
        # set that is kept there have been looked at before. What is to be predicted may have none.
        if self._trainer is None or not self.trainer.predicting or has_targets(batch):
            self.check_batch(batch)
        return batch

    def check_batch(self, batch: Any) -> None:
        """Raises InputError for labels that the loss does not take; their values are looked at in main memory only."""
        _, labels = self.parts(batch)
        if labels.is_floating_point() or labels.is_complex():
            is_whole = (
                labels.device.type == "cpu" and not labels.is_complex() and bool((labels == labels.floor()).all())
            )
            whole = ", though whole: write y.long(), or y.astype('int64') of an array or a series" if is_whole else ""
            raise InputError(
                f"labels are whole numbers, and these are {labels.dtype}{whole}; for numbers to fit use a Regressor"
            )
        if labels.ndim != 1:
            raise InputError(
                f"labels are int64, one a sample, and these are {labels.dtype} of shape {tuple(labels.shape)}; "
                "bring them to it with .long(), .flatten() or .argmax(dim=1)"
            )
        if labels.device.type == "cpu" and len(labels):
            labels = labels if self.ignore_index is None else labels[labels != self.ignore_index]
            low, high = torch.aminmax(labels) if len(labels) else (0, 0)
            if low < 0 or high >= self.num_classes:
                wrong = int(low) if low < 0 else int(high)
                raise InputError(
                    f"label {wrong} is out of range: the model has {self.num_classes} classes, 0 to "
                    f"{self.num_classes - 1}; set model.num_classes to the number of classes in the data"
                )

    def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        if labels.dtype not in _LABELS:
            labels = labels.long()
        logits = self(inputs)
        if logits.shape[-1] != self.num_classes:
            raise InputError(
                f"the network has {logits.shape[-1]} outputs and the model {self.num_classes} classes; "
                "set model.network.num_outputs to model.num_classes"
            )
        options: dict[str, Any] = {} if self.ignore_index is None else {"ignore_index": self.ignore_index}
        smoothing = self.label_smoothing if self.training else 0.0
        return cross_entropy(logits, labels, self._weights(logits), label_smoothing=smoothing, **options), logits

    @property
    def loss_weight(self) -> Callable[[Any], Tensor] | None:
        """What the mean in the loss divides by: the sum of the class weights of the samples that have a label, or
        their number. None where that is the number of samples."""
        return None if self.class_weights is None and self.ignore_index is None else self._loss_weight

    def _loss_weight(self, batch: Any) -> Tensor:
        labels = batch[1].long()
        has_label = labels != self.ignore_index if self.ignore_index is not None else torch.ones_like(labels)
        if self.class_weights is None:
            return has_label.sum()
        weights = self._weights(next(self.parameters()))
        assert weights is not None
        return (weights[labels.clamp(0, self.num_classes - 1)] * has_label).sum()

    def _weights(self, like: Tensor) -> Tensor | None:
        """The class weights, of a kind with a tensor."""
        made = self._weights_made
        if self.class_weights is not None and (made is None or (made.dtype, made.device) != (like.dtype, like.device)):
            self._weights_made = torch.tensor(self.class_weights, dtype=like.dtype, device=like.device)
        return self._weights_made

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

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Tensor]:
        """Of a batch of inputs, with labels or without.

        Returns:
            `prediction` (samples,), `probability` (samples, num_classes); with labels `label` and `loss` (samples,),
            the sample's own, without a weight of its class.
        """
        inputs, labels = inputs_and_targets(batch)
        logits = self(inputs)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        predicted = {"prediction": logits.argmax(dim=-1), "probability": logits.softmax(dim=-1)}
        if labels is None:
            return predicted
        options: dict[str, Any] = {} if self.ignore_index is None else {"ignore_index": self.ignore_index}
        return predicted | {"label": labels, "loss": cross_entropy(logits, labels, reduction="none", **options)}

    def metrics_of(self, predicted: Mapping[str, Tensor]) -> dict[str, float]:
        """`acc` and `loss` over all samples, as a test has them, from what `predict_step` gave with labels."""
        labels, losses = predicted["label"].long(), predicted["loss"].double()
        has_label = torch.ones_like(labels, dtype=torch.bool)
        if self.ignore_index is not None:
            has_label = labels != self.ignore_index
        weights = has_label.double()
        if self.class_weights is not None:
            weights *= torch.tensor(self.class_weights).double()[labels.clamp(0, self.num_classes - 1)]
        right = (predicted["prediction"] == labels)[has_label]
        return {"acc": float(right.double().mean()), "loss": float((losses * weights).sum() / weights.sum())}

    def _evaluate(self, batch: Any, stage: str, accuracy: MulticlassAccuracy) -> None:
        loss, logits = self.loss_and_outputs(batch)
        accuracy.update(logits, batch[1])
        self.log(f"{stage}/loss", loss, prog_bar=True)
        self.log(f"{stage}/acc", accuracy, prog_bar=True)


def _checked(given: Any, num_classes: int) -> list[float]:
    weights: list[Any] = list(given) if isinstance(given, Sequence) else []
    if len(weights) != num_classes or not all(type(w) in (int, float) and 0 <= w < math.inf for w in weights):
        raise InputError(
            f"model.class_weights={given} must be {num_classes} numbers from 0 up, one for each class, or null"
        )
    return weights
