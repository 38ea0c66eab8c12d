"""Loaders, samplers, and the structure of batches."""

from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import CombinedLoader
from stock import CLASSES, FEATURES, LABELS, N, Net, X, case, loader, network, train
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

ROWS = TensorDataset(X, LABELS)
NOISE = "dropout, noise, random augmentation in `training_step`"


@case("shuffle=True", quick=True)
def shuffled(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), loader(shuffle=True), flags)


@case("shuffle=True with a generator of the loader's own")
def own_generator(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), loader(shuffle=True, generator=torch.Generator().manual_seed(2)), flags)


@case("shuffle=True, two workers, drop_last")
def workers(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), loader(shuffle=True, num_workers=2, drop_last=True), flags)


@case("a data set that augments at random")
def augments(Trainer: Any, **flags: Any) -> Any:
    class Noisy(Dataset):
        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> Any:
            return X[index] + 0.1 * torch.randn(FEATURES), LABELS[index]

    return train(Trainer, Net(), DataLoader(Noisy(), batch_size=6, shuffle=True), flags)


@case("WeightedRandomSampler")
def weighted_sampler(Trainer: Any, **flags: Any) -> Any:
    sampler = WeightedRandomSampler([1.0 + i % 3 for i in range(N)], 20)
    return train(Trainer, Net(), loader(sampler=sampler), flags)


@case("SubsetRandomSampler with a generator of its own")
def subset_sampler(Trainer: Any, **flags: Any) -> Any:
    sampler = SubsetRandomSampler(range(3, 20), torch.Generator().manual_seed(2))
    return train(Trainer, Net(), loader(sampler=sampler), flags)


@case("a batch sampler of one's own, batches of unequal size")
def own_batch_sampler(Trainer: Any, **flags: Any) -> Any:
    class Unequal(Sampler[list[int]]):
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[list[int]]:
            yield from (list(range(0, 9)), list(range(9, 13)), list(range(13, N)))

    return train(Trainer, Net(), DataLoader(ROWS, batch_sampler=Unequal()), flags)


@case("batch_size=None, whole batches out of the data set")
def batches_in_the_data_set(Trainer: Any, **flags: Any) -> Any:
    sampler = BatchSampler(RandomSampler(ROWS, generator=torch.Generator().manual_seed(2)), 6, drop_last=False)
    return train(Trainer, Net(), DataLoader(ROWS, batch_size=None, sampler=sampler), flags)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return zip(X, LABELS, strict=True)


class StreamWithLength(Stream):
    def __len__(self) -> int:
        return N


@case("IterableDataset without a length")
def stream(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), DataLoader(Stream(), batch_size=6), flags, validation=DataLoader(Stream(), 9))


@case("IterableDataset with a length, one worker")
def stream_with_length(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), DataLoader(StreamWithLength(), batch_size=6, num_workers=1), flags)


@case("an endless loader, with max_steps")
def endless(Trainer: Any, **flags: Any) -> Any:
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            return iter(repeat((X[0], LABELS[0])))

    return train(Trainer, Net(), DataLoader(Endless(), batch_size=6), flags, max_steps=7, max_epochs=-1)


@case("a loader that is no DataLoader: batches in a class of one's own")
def no_data_loader(Trainer: Any, **flags: Any) -> Any:
    class Batches:
        def __iter__(self) -> Any:
            return zip(X.split(6), LABELS.split(6), strict=True)

        def __len__(self) -> int:
            return 4

    return train(Trainer, Net(), Batches(), flags)


class Both(Net):
    """Trained on all the loaders of a CombinedLoader at once."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = [part for part in batch.values() if part is not None]
        loss = sum((self.loss(self.net(x), target) for x, target in parts), torch.zeros(())) / len(parts)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


def combined(Trainer: Any, mode: Any, flags: dict[str, Any], sizes: tuple[int, int] = (6, 6)) -> Any:
    loaders = {"a": loader(sizes[0]), "b": DataLoader(TensorDataset(X[:14], LABELS[:14]), sizes[1])}
    return train(Trainer, Both(), CombinedLoader(loaders, mode), flags)


@case("CombinedLoader, min_size")
def combined_min_size(Trainer: Any, **flags: Any) -> Any:
    return combined(Trainer, "min_size", flags)


@case("CombinedLoader, max_size_cycle, parts of one size")
def combined_cycle(Trainer: Any, **flags: Any) -> Any:
    loaders = {"a": loader(6), "b": DataLoader(TensorDataset(X[:18], LABELS[:18]), 6)}
    return train(Trainer, Both(), CombinedLoader(loaders, "max_size_cycle"), flags, limit_train_batches=3)


@case("CombinedLoader, max_size_cycle, parts of unequal size")
def combined_unequal(Trainer: Any, **flags: Any) -> Any:
    return combined(Trainer, "max_size_cycle", flags, (6, 4))


@case("CombinedLoader, max_size")
def combined_max_size(Trainer: Any, **flags: Any) -> Any:
    return combined(Trainer, "max_size", flags, (6, 6))


@case("CombinedLoader, sequential")
def combined_sequential(Trainer: Any, **flags: Any) -> Any:
    class One(Net):
        def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            (x, target), _, loader_idx = batch if len(batch) == 3 else (batch, 0, 0)
            return self.loss(self.net(x), target) * (1 + loader_idx)

    return train(Trainer, One(), CombinedLoader([loader(), loader(9)], "sequential"), flags)


@case("several validation loaders")
def validation_loaders(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), loader(), flags, validation=[loader(4), loader(9)])


class Modules(L.LightningDataModule):
    """A data module with another batch size each epoch."""

    def train_dataloader(self) -> Any:
        return loader(6 + 3 * (self.trainer.current_epoch if self.trainer else 0))

    def val_dataloader(self) -> Any:
        return loader(9)


@case("a data module, loaders anew each epoch")
def reloaded(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Net(), Modules(), flags, reload_dataloaders_every_n_epochs=1, max_epochs=3)


@case("on_after_batch_transfer augments the batch")
def augments_after_transfer(Trainer: Any, **flags: Any) -> Any:
    class Noisy(Net):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]

    return train(Trainer, Noisy(), loader(), flags)


@case("transfer_batch_to_device of a data module that makes the batch another")
def transfers(Trainer: Any, **flags: Any) -> Any:
    class Doubles(Modules):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            return 2 * batch[0], batch[1]

    return train(Trainer, Net(), Doubles(), flags)


# ---- structures ---------------------------------------------------------------------------------------------


class Structured(Net):
    """Finds inputs and targets in a batch in its own way."""

    def __init__(self, find: Any, net: nn.Module | None = None) -> None:
        super().__init__(net)
        self.find = find

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(self.find(batch), batch_idx)


def collated(collate: Any, batch_size: int = 6) -> DataLoader:
    return DataLoader(ROWS, batch_size, collate_fn=lambda rows: collate(*map(torch.stack, zip(*rows, strict=True))))


@case("named tuples in dicts in tuples")
def nested(Trainer: Any, **flags: Any) -> Any:
    Pair = namedtuple("Pair", "x target")
    data = collated(lambda x, target: ({"pair": Pair(x, target), "scale": 1.0}, None))
    return train(Trainer, Structured(lambda batch: batch[0]["pair"]), data, flags)


@case("a dataclass")
def a_dataclass(Trainer: Any, **flags: Any) -> Any:
    @dataclass
    class Rows:
        x: Tensor
        target: Tensor
        name: str = "rows"

    return train(Trainer, Structured(lambda rows: (rows.x, rows.target)), collated(Rows), flags)


@case("strings beside tensors")
def strings(Trainer: Any, **flags: Any) -> Any:
    class Texts(Dataset):
        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> Any:
            return {"text": "x" * (index % 5), "x": X[index], "target": LABELS[index]}

    def find(batch: Any) -> Any:
        lengths = torch.tensor([float(len(text)) for text in batch["text"]])
        return batch["x"] * lengths[:, None], batch["target"]

    return train(Trainer, Structured(find), DataLoader(Texts(), batch_size=6), flags)


def detected(batch: Any) -> Any:
    return torch.stack([x for x, _ in batch]), torch.stack([row["label"] for _, row in batch])


class LogsSamples(Structured):
    def log(self, name: str, value: Any, **options: Any) -> None:
        super().log(name, value, **options, batch_size=len(self.trainer.fit_loop.epoch_loop._results.batch))  # pyright: ignore


def detection_data() -> DataLoader:
    return DataLoader(ROWS, batch_size=6, collate_fn=lambda rows: [(x, {"label": label}) for x, label in rows])


@case("a list of pairs, one a sample, as detection has it", why="it takes another number for the batch size in means",
      right=lambda Trainer, **flags: train(Trainer, LogsSamples(detected), detection_data(), flags))  # fmt: skip
def detection(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, Structured(detected), detection_data(), flags)


@case("time-major tensors")
def time_major(Trainer: Any, **flags: Any) -> Any:
    data = collated(lambda x, target: (x.reshape(-1, 2, 2).transpose(0, 1), target))
    net = network(nn.RNN(2, 8))

    class OverTime(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.net(batch[0])[0][-1, :, :CLASSES], batch[1])

    return train(Trainer, OverTime(net), data, flags)


@case("one tensor, time-major")
def one_time_major(Trainer: Any, **flags: Any) -> Any:
    data = collated(lambda x, target: x.reshape(-1, 2, 2).transpose(0, 1))

    class OverTime(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch)[0][-1].square().mean()

    return train(Trainer, OverTime(network(nn.RNN(2, 8))), data, flags)


class Rows:
    def __init__(self, x: Tensor, target: Tensor) -> None:
        self.x, self.target = x, target


class OfObjects(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(self.net(batch.x), batch.target)


@case("a batch that is an object of one's own")
def an_object(Trainer: Any, **flags: Any) -> Any:
    return train(Trainer, OfObjects(), collated(Rows), flags)


@case("a batch that is an object of one's own, with count_samples and cut_batch")
def an_object_that_can_be_cut(Trainer: Any, **flags: Any) -> Any:
    class Knows(OfObjects):
        def count_samples(self, batch: Any) -> int:
            return len(batch.x)

        def cut_batch(self, batch: Any, sizes: Any) -> Any:
            return [Rows(x, target) for x, target in zip(batch.x.split(sizes), batch.target.split(sizes), strict=True)]

    return train(Trainer, Knows(), collated(Rows), flags)


@case("sparse COO tensors")
def sparse(Trainer: Any, **flags: Any) -> Any:
    data = collated(lambda x, target: (x.relu().to_sparse(), target))
    return train(Trainer, Structured(lambda batch: (batch[0].to_dense(), batch[1])), data, flags)


@case("sparse CSR tensors")
def sparse_csr(Trainer: Any, **flags: Any) -> Any:
    data = collated(lambda x, target: (x.relu().to_sparse_csr(), target))
    return train(Trainer, Structured(lambda batch: (batch[0].to_dense(), batch[1])), data, flags)


@case("jagged tensors")
def jagged(Trainer: Any, **flags: Any) -> Any:
    def ragged(x: Tensor, target: Tensor) -> Any:
        rows = [row[: 1 + i % FEATURES, None] for i, row in enumerate(x)]
        return torch.nested.nested_tensor(rows, layout=torch.jagged), target

    def find(batch: Any) -> Any:
        return torch.nested.to_padded_tensor(batch[0], 0.0, (batch[0].size(0), FEATURES, 1)).squeeze(-1), batch[1]

    return train(Trainer, Structured(find), collated(ragged), flags)


@case("packed sequences")
def packed(Trainer: Any, **flags: Any) -> Any:
    def pack(x: Tensor, target: Tensor) -> Any:
        return nn.utils.rnn.pack_sequence([row[: 1 + i % 4, None] for i, row in enumerate(x)], False), target

    class Recurrent(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(self.net(batch[0])[1][0][:, :CLASSES], batch[1])

    return train(Trainer, Recurrent(network(nn.RNN(1, 8))), collated(pack), flags)


@case("tensors padded to the longest of a batch, with their mask")
def padded(Trainer: Any, **flags: Any) -> Any:
    def pad(x: Tensor, target: Tensor) -> Any:
        lengths = torch.arange(len(x)) % FEATURES + 1
        return {"x": x, "mask": torch.arange(FEATURES) < lengths[:, None], "target": target}

    return train(Trainer, Structured(lambda batch: (batch["x"] * batch["mask"], batch["target"])), collated(pad), flags)
