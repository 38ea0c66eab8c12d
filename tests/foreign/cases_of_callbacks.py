"""The callbacks that come with Lightning."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from stock import CLASSES, FEATURES, QUIET, Net, case, copied, files, left, loader, network, rows_of, train
from torch import nn
from torch.optim.lr_scheduler import StepLR


def saving(Trainer: Any, flags: dict[str, Any], *callbacks: Any, **own: Any) -> Any:
    """Trains with checkpoints; what is left, the files, and which is best."""
    own = {"enable_checkpointing": True, "max_epochs": 4, "validation": loader(9), **own}
    found = train(Trainer, Net(), loader(), flags, callbacks=list(callbacks), **own)
    kept = [c.best_k_models for c in callbacks if isinstance(c, ModelCheckpoint)]
    return found, files(), [{Path(path).name: score for path, score in models.items()} for models in kept]


@case("EarlyStopping by validation, by the training's loss in each epoch")
def early_stopping(Trainer: Any, **flags: Any) -> Any:
    by_validation = EarlyStopping("val/loss", min_delta=0.05, patience=1)
    by_training = EarlyStopping("loss_epoch", min_delta=0.05, patience=0, check_on_train_epoch_end=True)
    return [
        train(Trainer, Net(), loader(), flags, callbacks=[stops], max_epochs=20, validation=loader(9))
        for stops in (by_validation, by_training)
    ]


@case("EarlyStopping by stopping_threshold and divergence_threshold")
def thresholds(Trainer: Any, **flags: Any) -> Any:
    stops = EarlyStopping("loss_epoch", stopping_threshold=1.0, divergence_threshold=5.0)
    return train(Trainer, Net(), loader(), flags, callbacks=[stops], max_epochs=20, validation=loader(9))


@case("ModelCheckpoint: the best two, and the last", quick=True)
def best_two(Trainer: Any, **flags: Any) -> Any:
    saves = ModelCheckpoint("saved", "{epoch}-{step}", monitor="val/loss", save_top_k=2, save_last=True)
    return saving(Trainer, flags, saves)


@case("ModelCheckpoint: every third step, all of them")
def every_third_step(Trainer: Any, **flags: Any) -> Any:
    return saving(Trainer, flags, ModelCheckpoint("saved", "{step}", every_n_train_steps=3, save_top_k=-1))


@case("ModelCheckpoint: every second epoch, and the best by a metric of the training")
def every_second_epoch(Trainer: Any, **flags: Any) -> Any:
    second = ModelCheckpoint("second", "{epoch}", every_n_epochs=2, save_top_k=-1)
    best = ModelCheckpoint("best", "{epoch}-{loss_epoch:.9f}", monitor="loss_epoch", mode="min")
    return saving(Trainer, flags, second, best)


@case("ModelCheckpoint: by time, weights only")
def by_time(Trainer: Any, **flags: Any) -> Any:
    saves = ModelCheckpoint(
        "saved", "{step}", train_time_interval=timedelta(seconds=0), save_top_k=-1, save_weights_only=True
    )
    return saving(Trainer, flags, saves)


class Raises(Net):
    """With an exception after the sixth step, and one in the seventh."""

    def __init__(self, in_the_step: bool) -> None:
        super().__init__()
        self.in_the_step = in_the_step

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.in_the_step and self.trainer.global_step == 6:
            raise ZeroDivisionError
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 6:
            raise ZeroDivisionError


def saved_by(Trainer: Any, flags: dict[str, Any], saves: Any, in_the_step: bool = True) -> Any:
    try:
        train(Trainer, Raises(in_the_step), loader(), flags, callbacks=[saves], enable_checkpointing=True)
    except ZeroDivisionError:
        written = files()
        saved = torch.load(written[0], weights_only=False)
        return written, saved["state_dict"], saved["global_step"], saved["epoch"]
    return "no exception"


@case("ModelCheckpoint(save_on_exception=True)")
def save_on_exception(Trainer: Any, **flags: Any) -> Any:
    return saved_by(Trainer, flags, ModelCheckpoint("saved", save_on_exception=True))


@case("OnExceptionCheckpoint")
def on_exception(Trainer: Any, **flags: Any) -> Any:
    class Keeps(OnExceptionCheckpoint):
        def teardown(self, *_: Any, **__: Any) -> None:
            """Keeps its file."""

    return saved_by(Trainer, flags, Keeps("saved"), in_the_step=False)


@case("LearningRateMonitor, with a CSVLogger")
def rate_monitor(Trainer: Any, **flags: Any) -> Any:
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return [optimizer], [{"scheduler": StepLR(optimizer, 2, 0.5), "interval": "step"}]

    monitor = LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
    train(Trainer, Scheduled(), loader(), flags, callbacks=[monitor], logger=CSVLogger("logs"), log_every_n_steps=1)
    return monitor.lrs, rows_of("logs")


class Tuned(Net):
    """With a rate and a batch size that are looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.learning_rate, self.batch_size = 0.1, 2

    def train_dataloader(self) -> Any:
        return loader(self.batch_size)

    val_dataloader = train_dataloader

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


@case("LearningRateFinder")
def rate_finder(Trainer: Any, **flags: Any) -> Any:
    module, finder = Tuned(), LearningRateFinder(num_training_steps=8, early_stop_threshold=None)
    module.batch_size = 6
    found = train(Trainer, module, None, flags, callbacks=[finder], enable_checkpointing=True)
    return found, finder.optimal_lr.results, module.learning_rate  # pyright: ignore


@case("BatchSizeFinder", cut=False)
def batch_size_finder(Trainer: Any, **flags: Any) -> Any:
    module = Tuned()
    found = train(
        Trainer, module, None, flags, callbacks=[BatchSizeFinder("power", 1, max_trials=2)], enable_checkpointing=True
    )
    return found, module.batch_size


@case("GradientAccumulationScheduler")
def accumulation_scheduler(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), loader(), flags, callbacks=[GradientAccumulationScheduler({0: 2})])


@case("Timer: time elapsed, none left")
def timer(Trainer: Any, **flags: Any) -> Any:
    counts = Timer("00:01:00:00")
    found = train(Trainer, Net(), loader(), flags, callbacks=[counts])
    stopped = train(Trainer, Net(), loader(), flags, callbacks=[Timer(timedelta(0), "step")])
    return found, stopped, counts.time_elapsed() > 0


@case("ModelSummary, TQDMProgressBar, LambdaCallback")
def shows(Trainer: Any, **flags: Any) -> Any:
    seen: list[Any] = []
    callbacks = [
        ModelSummary(2),
        TQDMProgressBar(refresh_rate=0),
        LambdaCallback(
            on_train_batch_end=lambda trainer, module, *_: seen.append(copied(trainer.progress_bar_metrics))
        ),
    ]
    on = {"enable_progress_bar": True, "enable_model_summary": True}
    return train(Trainer, Net(), loader(), flags, callbacks=callbacks, **on), seen


@case("DeviceStatsMonitor, ThroughputMonitor: the names of what they log")
def monitors(Trainer: Any, **flags: Any) -> Any:
    throughput: Any = lightning_callbacks.ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0]), window_size=3)
    on = {"logger": CSVLogger("logs"), "log_every_n_steps": 2, "max_epochs": 3}
    found = train(Trainer, Net(), loader(), flags, callbacks=[DeviceStatsMonitor(cpu_stats=False), throughput], **on)
    rows = Path("logs/lightning_logs/version_0/metrics.csv").read_text().splitlines()
    return found, sorted(rows[0].split(",")), len(rows)


class Backbone(Net):
    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.backbone, self.head = network(nn.Linear(FEATURES, 8), nn.Tanh()), nn.Linear(8, CLASSES)
        self.net = nn.Sequential(self.backbone, self.head)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)
        return [optimizer], [StepLR(optimizer, 1, 0.5)]


@case("BackboneFinetuning")
def backbone_finetuning(Trainer: Any, **flags: Any) -> Any:
    unfreezes = BackboneFinetuning(1, lambda epoch: 1.5, backbone_initial_ratio_lr=0.1, should_align=True)
    return train(Trainer, Backbone(), loader(), flags, callbacks=[unfreezes], max_epochs=4)


@case("a BaseFinetuning of one's own")
def finetuning(Trainer: Any, **flags: Any) -> Any:
    class Unfreezes(BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.05)

    class Frozen(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    return train(Trainer, Frozen(), loader(), flags, callbacks=[Unfreezes()], max_epochs=3)


@case("StochasticWeightAveraging")
def swa(Trainer: Any, **flags: Any) -> Any:
    averages = StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)
    return train(Trainer, Net(), loader(), flags, callbacks=[averages], max_epochs=5)


@case("WeightAveraging of every step, EMA by EMAWeightAveraging")
def weight_averaging(Trainer: Any, **flags: Any) -> Any:
    ema = lightning_callbacks.EMAWeightAveraging(decay=0.8)
    return [
        train(Trainer, Net(), loader(), flags, callbacks=[averages], max_epochs=3, validation=loader(9))
        for averages in (WeightAveraging(), ema)
    ]


@case("ModelPruning")
def pruning(Trainer: Any, **flags: Any) -> Any:
    prunes = ModelPruning("l1_unstructured", amount=0.3, parameters_to_prune=None)  # pyright: ignore
    return train(Trainer, Net(), loader(), flags, callbacks=[prunes], enable_checkpointing=True)


@case("SpikeDetection, which leaves batches out")
def spikes(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), loader(), flags, callbacks=[Spikes(warmup=1, atol=0.01, exclude_batches_path="out")])


class Spikes(lightning_callbacks.SpikeDetection):
    """Notes what is seen, and goes on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(outputs["loss"]))
        pl_module.log("seen", torch.tensor(self.seen).sum(), reduce_fx="max")


@case("BasePredictionWriter")
def prediction_writer(Trainer: Any, **flags: Any) -> Any:
    class Writes(BasePredictionWriter):
        def write_on_batch_end(self, trainer: Any, pl_module: Any, prediction: Any, indices: Any, *_: Any) -> None:
            written.append((copied(prediction), indices))

    written: list[Any] = []

    class Predicts(Net):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch[0])

    trainer = Trainer(**QUIET | {"callbacks": [Writes("batch")]} | flags)
    return copied(trainer.predict(Predicts(), loader())), written


@case("callbacks with state of their own, in a checkpoint")
def state_of_callbacks(Trainer: Any, **flags: Any) -> Any:
    class Counts(lightning_callbacks.Callback):
        count = 0

        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.count = state_dict["count"]

    trainer, module, counts = Trainer(**QUIET | {"callbacks": [Counts()]} | flags), Net(), Counts()
    trainer.fit(module, loader())
    trainer.save_checkpoint("saved.ckpt")
    again = Trainer(**QUIET | {"callbacks": [counts], "max_epochs": 3} | flags)
    again.fit(module, loader(), ckpt_path="saved.ckpt", weights_only=False)
    return left(again, module), counts.count, json.dumps(counts.state_dict())
