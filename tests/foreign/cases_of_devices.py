"""Two processes: what is left is compared with what stock Lightning leaves on two; cut in three too."""

from typing import Any

import torch
from stock import CLASSES, FEATURES, LABELS, N, Net, X, case, copied, loader, network, train
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

TWO: dict[str, Any] = {"devices": 2, "strategy": "ddp_fork"}
EVEN = TensorDataset(X[:20], LABELS[:20])


def even(batch_size: int = 5) -> DataLoader:
    """20 samples, of which each device takes 10, 5 a step."""
    return DataLoader(EVEN, batch_size)


class Two(Net):
    """Logs its loss over both."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss


def on_two(Trainer: Any, module: Any, flags: dict[str, Any], data: Any = None, **own: Any) -> Any:
    return train(Trainer, module, even() if data is None else data, flags, **TWO | own)


@case("a small network, and its validation", devices=True)
def plain(Trainer: Any, **flags: Any) -> Any:
    class Validated(Two):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.loss(self.net(batch[0]), batch[1]), sync_dist=True)

    return on_two(Trainer, Validated(), flags, validation=even())


@case("BatchNorm", devices=True, not_exact="BatchNorm in training")
def batch_norm(Trainer: Any, **flags: Any) -> Any:
    net = network(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    return on_two(Trainer, Two(net), flags, DataLoader(TensorDataset(X[:18], LABELS[:18]), 9))


@case("Accuracy with dist_sync_on_step", devices=True)
def sync_on_step(Trainer: Any, **flags: Any) -> Any:
    class Measured(Two):
        def __init__(self) -> None:
            super().__init__()
            self.metric = MulticlassAccuracy(CLASSES, average="micro", dist_sync_on_step=True)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = self.net(batch[0])
            self.metric(outputs, batch[1])
            self.log("accuracy", self.metric, on_step=False, on_epoch=True)
            return self.loss(outputs, batch[1])

    return on_two(Trainer, Measured(), flags)


@case("self.all_gather in training_step, logged", devices=True)
def all_gather(Trainer: Any, **flags: Any) -> Any:
    class Gathers(Two):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            gathered: Any = self.all_gather(loss.detach())
            self.log("gathered", gathered.mean(), on_step=False, on_epoch=True)
            return loss

    return on_two(Trainer, Gathers(), flags)


@case("a contrastive loss over all devices", devices=True,
      not_exact="a loss that compares samples (contrastive, ranking, quantiles of a batch)")  # fmt: skip
def contrastive(Trainer: Any, **flags: Any) -> Any:
    class Contrasts(Two):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            rows = nn.functional.normalize(self.net(batch[0]), dim=1)
            gathered: Any = self.all_gather(rows, sync_grads=True)
            every = gathered.flatten(0, 1)
            own = torch.arange(len(rows)) + len(rows) * self.global_rank
            return nn.functional.cross_entropy(rows @ (every + 0.1).T / 0.5, own)

    return on_two(Trainer, Contrasts(), flags)


@case("self.log on the first device alone, rank_zero_only=True", devices=True)
def rank_zero_only(Trainer: Any, **flags: Any) -> Any:
    class First(Two):
        def on_train_epoch_end(self) -> None:
            if self.trainer.is_global_zero:
                self.log("first", 1.0 + self.current_epoch, rank_zero_only=True)

    return on_two(Trainer, First(), flags)


@case("a DistributedSampler of one's own, without Lightning's", devices=True)
def own_sampler(Trainer: Any, **flags: Any) -> Any:
    class Loads(Two):
        def train_dataloader(self) -> Any:
            sampler = DistributedSampler(EVEN, 2, self.trainer.global_rank, shuffle=True, seed=4)
            return DataLoader(EVEN, 5, sampler=sampler)

    return train(Trainer, Loads(), None, flags, use_distributed_sampler=False, **TWO)


@case("an IterableDataset that deals out its samples by rank", devices=True)
def dealt(Trainer: Any, **flags: Any) -> Any:
    class Deals(IterableDataset):
        def __iter__(self) -> Any:
            rank = torch.distributed.get_rank()
            return zip(X[rank:20:2], LABELS[rank:20:2], strict=True)

    return on_two(Trainer, Two(), flags, DataLoader(Deals(), batch_size=5))


@case("weights that a step does not use, find_unused_parameters", devices=True)
def unused(Trainer: Any, **flags: Any) -> Any:
    class Uses(Two):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(CLASSES, CLASSES), nn.Linear(CLASSES, CLASSES)])

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.heads[batch_idx % 2](self.net(batch[0])), batch[1])

    return on_two(Trainer, Uses(), flags, strategy="ddp_fork_find_unused_parameters_true")


@case("clipping by norm, ReduceLROnPlateau by the validation", devices=True)
def plateau(Trainer: Any, **flags: Any) -> Any:
    class Schedules(Two):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", self.loss(self.net(batch[0]), batch[1]), sync_dist=True)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.2)
            return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "val/loss"}

    return on_two(Trainer, Schedules(), flags, validation=even(), gradient_clip_val=0.1, max_epochs=4)


@case("shares of unequal size", devices=True, why="it averages shares as if they were equal",
      right=lambda Trainer, **flags: train(Trainer, Two(), loader(N), flags)["weights"])  # fmt: skip
def unequal(Trainer: Any, **flags: Any) -> Any:
    class Unequal(IterableDataset):
        def __iter__(self) -> Any:
            own = slice(0, 14) if torch.distributed.get_rank() == 0 else slice(14, N)
            return iter([(X[own], LABELS[own])])

    return on_two(Trainer, Two(), flags, DataLoader(Unequal(), batch_size=None))["weights"]


@case("manual: two optimizers", devices=True)
def manual(Trainer: Any, **flags: Any) -> Any:
    class Manual(Two):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            for optimizer in self.optimizers():  # pyright: ignore
                optimizer.zero_grad()
            self.manual_backward(self.loss(self.net(batch[0]), batch[1]))
            for optimizer in self.optimizers():  # pyright: ignore
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.net[0], self.net[2])]

    return copied(on_two(Trainer, Manual(), flags))
