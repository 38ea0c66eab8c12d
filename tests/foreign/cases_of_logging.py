"""Metrics, and what `self.log` makes of values."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from stock import CLASSES, QUIET, Net, case, copied, files, loader, rows_of, train
from torchmetrics import MeanMetric, MeanSquaredError, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)


class Measured(Net):
    """With metrics in training and validation."""

    def __init__(self, train: Any, val: Any = None, **options: Any) -> None:
        super().__init__()
        self.train_metric, self.val_metric, self.options = train, val, options
        self.steps: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        self.train_metric.update(outputs.softmax(1), batch[1])
        self.log("metric", self.train_metric, **self.options)
        return self.loss(outputs, batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_metric(self.net(batch[0]).softmax(1), batch[1])
        (self.log_dict if isinstance(self.val_metric, MetricCollection) else self.log_it)(self.val_metric)

    def log_it(self, metric: Any) -> None:
        self.log("val/metric", metric)


@case("Accuracy over an epoch", quick=True)
def accuracy(Trainer: Any, **flags: Any) -> Any:
    metrics = MulticlassAccuracy(CLASSES), MulticlassAccuracy(CLASSES, average="micro")
    return train(Trainer, Measured(*metrics, on_step=False, on_epoch=True), loader(), flags, validation=loader(9))


class ByStep(Net):
    """A metric's value of each step is logged."""

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self.metric, self.steps = metric, []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        self.metric(outputs.softmax(1), batch[1])
        self.log("metric", self.metric, on_step=True, on_epoch=True)
        return self.loss(outputs, batch[1])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(copied(self.trainer.callback_metrics["metric_step"]))


@case("Accuracy of each step")
def accuracy_of_steps(Trainer: Any, **flags: Any) -> Any:
    module = ByStep(MulticlassAccuracy(CLASSES, average="micro"))
    return train(Trainer, module, loader(), flags), module.steps


@case("F1 of each step")
def f1_of_steps(Trainer: Any, **flags: Any) -> Any:
    module = ByStep(MulticlassF1Score(CLASSES))
    return train(Trainer, module, loader(), flags), module.steps


@case("AUROC, F1 and a confusion matrix in a MetricCollection")
def collection(Trainer: Any, **flags: Any) -> Any:
    metrics = MetricCollection([MulticlassAUROC(CLASSES), MulticlassF1Score(CLASSES)], prefix="val/")
    module = Measured(MulticlassAUROC(CLASSES), metrics, on_step=False, on_epoch=True)
    return train(Trainer, module, loader(), flags, validation=loader(9))


@case("a metric computed and reset by hand at the end of an epoch")
def by_hand(Trainer: Any, **flags: Any) -> Any:
    class ByHand(Net):
        def __init__(self) -> None:
            super().__init__()
            self.matrix, self.mean, self.seen = MulticlassConfusionMatrix(CLASSES), MeanMetric(), []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = self.net(batch[0])
            self.matrix.update(outputs, batch[1])
            loss = self.loss(outputs, batch[1])
            self.mean.update(loss.detach(), len(batch[1]))
            return loss

        def on_train_epoch_end(self) -> None:
            self.seen += [self.matrix.compute(), self.mean.compute()]
            self.log("trace", self.matrix.compute().trace().double())
            self.matrix.reset()
            self.mean.reset()

    module = ByHand()
    return train(Trainer, module, loader(), flags), copied(module.seen)


class Logs(Net):
    """Logs its loss and the square of its inputs in a way of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options, self.steps = options, []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self.net(batch[0]), batch[1])
        self.log_dict({"loss": loss, "square": batch[0].square().mean()}, **self.options)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(copied(dict(self.trainer.callback_metrics)))


def logged(Trainer: Any, flags: dict[str, Any], **options: Any) -> Any:
    module = Logs(**options)
    return train(Trainer, module, loader(), flags), module.steps


@case("self.log: on_step, on_epoch, both, the progress bar")
def ways_to_log(Trainer: Any, **flags: Any) -> Any:
    ways = (
        {"on_step": True},
        {"on_step": False, "on_epoch": True},
        {"on_step": True, "on_epoch": True, "prog_bar": True},
    )
    return [logged(Trainer, flags, **way) for way in ways]


@case(
    "self.log: an epoch's largest and smallest value, over batches",
    not_exact="values of `self.log` with `reduce_fx` of `max`, `min` or `sum`",
)
def extremes(Trainer: Any, **flags: Any) -> Any:
    return [logged(Trainer, flags, on_epoch=True, reduce_fx=reduce) for reduce in ("max", "min")]


@case("self.log: sums over the epoch", not_exact="values of `self.log` with `reduce_fx` of `max`, `min` or `sum`")
def sums(Trainer: Any, **flags: Any) -> Any:
    return logged(Trainer, flags, on_epoch=True, reduce_fx="sum")


@case("self.log: a count summed over the epoch")
def counts(Trainer: Any, **flags: Any) -> Any:
    class Counts(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = self.net(batch[0])
            right = (outputs.argmax(1) == batch[1]).sum().double()
            self.log("right", right, on_step=True, on_epoch=True, reduce_fx="sum")
            return self.loss(outputs, batch[1])

    return train(Trainer, Counts(), loader(), flags)


@case("self.log with batch_size, of numbers, of what is not there in each step")
def odd_values(Trainer: Any, **flags: Any) -> Any:
    class Odd(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(self.net(batch[0]), batch[1])
            self.log("weighed", loss, on_epoch=True, batch_size=len(batch[0]))
            self.log("number", 0.5 + batch_idx, on_epoch=True)
            if batch_idx % 2:
                self.log("odd", loss, on_epoch=True)
            return loss

    return train(Trainer, Odd(), loader(), flags)


@case("callbacks that log in the hooks of a step and of an epoch")
def callbacks_log(Trainer: Any, **flags: Any) -> Any:
    class LogsToo(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            pl_module.log("after", outputs["loss"] * 2, on_step=True, on_epoch=True)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("end", float(trainer.current_epoch))

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.logger.log_metrics({"direct": 1.0}, trainer.global_step)

    own = {"callbacks": [LogsToo()], "logger": CSVLogger("logs"), "log_every_n_steps": 2, "validation": loader(9)}
    return train(Trainer, Net(), loader(), flags, **own), rows_of("logs")


@case("CSVLogger and TensorBoardLogger together, every step, hyperparameters")
def loggers(Trainer: Any, **flags: Any) -> Any:
    class Saves(Net):
        def __init__(self, rate: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()

    own = {"logger": [CSVLogger("logs"), TensorBoardLogger("boards")], "log_every_n_steps": 1}
    found = train(Trainer, Saves(), loader(), flags, validation=loader(9), **own)
    return found, rows_of("logs"), sorted({str(Path(file).parent) for file in files()})


# ---- evaluation alone ---------------------------------------------------------------------------------------


class Evaluated(Net):
    def __init__(self) -> None:
        super().__init__()
        self.error, self.ends = MeanSquaredError(), []

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        outputs = self.net(batch[0])
        self.error(outputs.argmax(1), batch[1])
        self.log("test/error", self.error)
        self.log("test/loss", self.loss(outputs, batch[1]), on_step=True, on_epoch=True, add_dataloader_idx=True)

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.ends.append((batch_idx, dataloader_idx))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch[0]).argmax(1)


@case("validate, test and predict without a fit")
def evaluates(Trainer: Any, **flags: Any) -> Any:
    trainer, module = Trainer(**QUIET | flags), Evaluated()
    found = [trainer.validate(module, loader(9), verbose=False), trainer.test(module, loader(9), verbose=False)]
    return copied(found), module.ends, copied(trainer.predict(module, loader(9)))


@case("test over several loaders, limit_test_batches, after a fit")
def tests_after_a_fit(Trainer: Any, **flags: Any) -> Any:
    trainer, module = Trainer(**QUIET | {"limit_test_batches": 0.5} | flags), Evaluated()
    trainer.fit(module, loader())
    return copied(trainer.test(module, [loader(4), loader(9)], verbose=False)), module.ends, trainer.global_step


@case("validation within the gradient: inference_mode=False")
def with_gradients(Trainer: Any, **flags: Any) -> Any:
    class Gradients(Net):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            with torch.enable_grad():
                x = batch[0].clone().requires_grad_()
                (gradient,) = torch.autograd.grad(self.net(x).sum(), x)
            self.log("slope", gradient.norm(dim=1).mean())

    return train(Trainer, Gradients(), loader(), flags, validation=loader(9), inference_mode=False)
