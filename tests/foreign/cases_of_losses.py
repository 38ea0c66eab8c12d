"""Losses: means over samples and over other things, sums, and losses that compare samples."""

from typing import Any

import torch
from stock import CLASSES, FEATURES, LABELS, N, Net, X, case, loader, network, train
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

COUNTED = "a mean over tokens, counted labels, class weights"
COMPARES = "a loss that compares samples (contrastive, ranking, quantiles of a batch)"
CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
SOME = torch.where(torch.arange(N) % 4 == 1, -100, LABELS)


class Weighted(Net):
    def loss(self, outputs: Tensor, target: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, target, weight=CLASS_WEIGHTS)


@case("label smoothing")
def smoothed(Trainer: Any, **flags: Any) -> Any:
    class Smooth(Net):
        def loss(self, outputs: Tensor, target: Any) -> Tensor:
            return nn.functional.cross_entropy(outputs, target, label_smoothing=0.1)

    return train(Trainer, Smooth(), loader(), flags)


@case("a mean with a penalty on the weights added")
def penalized(Trainer: Any, **flags: Any) -> Any:
    class Penalized(Net):
        def loss(self, outputs: Tensor, target: Any) -> Tensor:
            penalty = sum(parameter.abs().sum() for parameter in self.parameters())
            return nn.functional.cross_entropy(outputs, target) + 1e-3 * penalty

    return train(Trainer, Penalized(), loader(), flags)


@case("class weights", not_exact=COUNTED)
def class_weights(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Weighted(), loader(), flags)


LOGGED = "means over the epoch weigh what the loss divides by"


def logged_by_weight(module: Any, data: Any) -> Any:
    """The whole batch, and a mean of the epoch that weighs each batch as its loss does."""

    class Logs(module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss, on_step=True, on_epoch=True, batch_size=self.loss_weight(batch))
            return loss

        def log(self, name: str, value: Any, **options: Any) -> None:
            if "batch_size" in options:
                super().log(name, value, **options)

    return lambda Trainer, **flags: train(Trainer, Logs(), data(), flags)


class SaysWeights(Weighted):
    def loss_weight(self, batch: Any) -> Any:
        return CLASS_WEIGHTS[batch[1]].sum()


@case("class weights, with loss_weight", quick=True, right=logged_by_weight(SaysWeights, loader), why=LOGGED)
def class_weights_said(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, SaysWeights(), loader(), flags)


class OfDicts(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["inputs"], batch["labels"]), batch_idx)


def dicts() -> DataLoader:
    rows = [{"inputs": x, "labels": label} for x, label in zip(X, SOME, strict=True)]
    return DataLoader(rows, batch_size=6)  # pyright: ignore


@case("dict batches with labels of -100", not_exact=COUNTED)
def ignored_labels(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, OfDicts(), dicts(), flags)


class SaysLabels(OfDicts):
    def loss_weight(self, batch: Any) -> Any:
        return (batch["labels"] != -100).sum()


@case("dict batches with labels of -100, with loss_weight", right=logged_by_weight(SaysLabels, dicts), why=LOGGED)
def ignored_labels_said(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, SaysLabels(), dicts(), flags)


class Sum(Net):
    def loss(self, outputs: Tensor, target: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, target, reduction="sum") / 10


@case("a sum over samples", not_exact="a sum")
def summed(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Sum(), loader(), flags)


@case("a sum over samples, with loss_weight")
def summed_said(Trainer: Any, **flags: Any) -> Any:
    class Says(Sum):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.net(batch[0]), batch[1])

        def loss_weight(self, batch: Any) -> None:
            return None

    return train(Trainer, Says(), loader(), flags)


@case("contrastive (InfoNCE)", not_exact=COMPARES)
def contrastive(Trainer: Any, **flags: Any) -> Any:
    class Contrasts(Net):
        def loss(self, outputs: Tensor, target: Any) -> Tensor:
            rows = nn.functional.normalize(outputs, dim=1)
            return nn.functional.cross_entropy(rows @ (rows + 0.1).T / 0.5, torch.arange(len(rows)))

    return train(Trainer, Contrasts(), loader(), flags)


@case("triplets, each in a sample of its own")
def triplets(Trainer: Any, **flags: Any) -> Any:
    class Triplets(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return nn.functional.triplet_margin_loss(*[self.net(part) for part in batch])

    data = DataLoader(TensorDataset(X, X.roll(1, 0), X.roll(2, 0)), batch_size=6)
    return train(Trainer, Triplets(), data, flags)


@case("two means over the samples, of two heads")
def two_heads(Trainer: Any, **flags: Any) -> Any:
    class Heads(Net):
        def loss(self, outputs: Tensor, target: Any) -> Tensor:
            losses = {"class": super().loss(outputs, target), "size": outputs.square().mean()}
            self.log_dict({f"part/{name}": loss for name, loss in losses.items()})
            return losses["class"] + 0.1 * losses["size"]

    return train(Trainer, Heads(), loader(), flags)


@case("two means over different things", not_exact="several means over different things, added up")
def two_means(Trainer: Any, **flags: Any) -> Any:
    class Means(Net):
        def loss(self, outputs: Tensor, target: Any) -> Tensor:
            return super().loss(outputs, target) + outputs[target == 1].square().sum() / (target == 1).sum().clamp(1)

    return train(Trainer, Means(), loader(), flags)


@case("mixup of the batch in training_step", not_exact=COMPARES)
def mixup(Trainer: Any, **flags: Any) -> Any:
    class Mixes(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, target = batch
            return self.loss(self.net(0.7 * x + 0.3 * x.flip(0)), target)

    return train(Trainer, Mixes(), loader(), flags)


@case("regression with a loss per quantile of the target")
def quantiles(Trainer: Any, **flags: Any) -> Any:
    class Quantiles(Net):
        def loss(self, outputs: Tensor, target: Any) -> Tensor:
            errors = target[:, None] - outputs
            return torch.maximum(errors * 0.1, -errors * 0.9).mean()

    return train(Trainer, Quantiles(), loader(), flags)


@case("training_step returns a dict, which on_train_batch_end reads")
def extras(Trainer: Any, **flags: Any) -> Any:
    class Extras(Net):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Tensor] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = self.net(batch[0])
            return {"loss": self.loss(outputs, batch[1]), "outputs": outputs.detach()}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.seen += [outputs["loss"].detach().clone(), outputs["outputs"]]

    module = Extras()
    return train(Trainer, module, loader(), flags), module.seen


@case("training_step returns None for some batches")
def leaves_out(Trainer: Any, **flags: Any) -> Any:
    class Leaves(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx == 1 else self.loss(self.net(batch[0]), batch[1])

    return train(Trainer, Leaves(), loader(), flags)


@case("a loss that is not finite")
def not_finite(Trainer: Any, **flags: Any) -> Any:
    class Breaks(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.net(batch[0]), batch[1]) * (float("nan") if batch_idx == 2 else 1)

    return train(Trainer, Breaks(), loader(), flags)


@case("distillation from a frozen teacher")
def distilled(Trainer: Any, **flags: Any) -> Any:
    class Distills(Net):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = network(nn.Linear(FEATURES, CLASSES)).requires_grad_(False).eval()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            found, wanted = self.net(batch[0]).log_softmax(1), self.teacher(batch[0]).softmax(1)
            return nn.functional.kl_div(found, wanted, reduction="batchmean")

    return train(Trainer, Distills(), loader(), flags)


@case("a penalty on the gradient by the input, of each sample")
def gradient_penalty(Trainer: Any, **flags: Any) -> Any:
    class Smooths(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x = batch[0].clone().requires_grad_()
            outputs = self.net(x)
            (gradient,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
            return self.loss(outputs, batch[1]) + 0.1 * gradient.square().sum(1).mean()

    return train(Trainer, Smooths(), loader(), flags)
