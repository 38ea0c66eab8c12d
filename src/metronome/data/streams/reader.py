"""Batches of a stream, a data set that can only be read from its first sample on."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count, islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from metronome.data.floats import Told, cast, differ
from metronome.data.stored.tables import rows_as_arrays
from metronome.training.batches.seeds import StepSeeds, generators_as_before
from metronome.units import InputError, even_split, share_size
from metronome.units.schedule import grows

_BEGINNING = 2**40  # what an iterator draws before its first batch is seeded as a batch that never comes
_SHARE_THEMSELVES_OUT = ("streaming", "litdata")  # packages whose data sets ask which device reads them


class Place(NamedTuple):
    """Where a stream was after a batch: its epoch, the batches read of it, and the stream's own states before the last
    of them and after it; whether that was the epoch's last batch. Plain values, for a checkpoint."""

    epoch: int
    batch: int
    before: Any
    after: Any
    is_last: bool = False


class Taken(NamedTuple):
    """A device's share of a batch; the samples in the share (0: it only keeps company) and in the batch; the place."""

    share: Any
    share_samples: int
    batch_samples: int
    place: Place | None


class StreamReader(IterableDataset):
    """Reads a stream in batches, and of each takes one device's share: contiguous, as from a data set with a length.

    Every device reads the whole stream, so that a batch is of the same samples on every layout, each of them once. One
    that `is_sharded` gives each device samples of its own; then a device's share of a batch is as many of those.

    The generators of torch, numpy and Python are seeded for each batch from (seed, epoch, batch): what a stream draws
    from them while it is read is the same after a resume, and with a worker.

    Args:
        stream: anything to iterate over; `state_dict` and `load_state_dict`, where it has them, must tell of the sample
            that was read last. `set_epoch(epoch)`, where it has it, is called before an epoch begins.
        batch_size: samples in a batch, over all devices.
        collate: makes a batch of a list of samples.
        seed: of the run.
        devices, rank: processes that train together, and which of them this is.
        drop_last: whether to leave out a last batch that is smaller.
        floats, told: as BatchReader has them.
    """

    def __init__(
        self,
        stream: Any,
        batch_size: int,
        *,
        collate: Callable[[list[Any]], Any],
        seed: int,
        devices: int,
        rank: int,
        drop_last: bool,
        floats: torch.dtype | None,
        told: Told,
    ) -> None:
        self.stream, self.batch_size, self.collate = stream, batch_size, collate
        self.devices, self.rank, self.drop_last = devices, rank, drop_last
        self.floats, self.told = floats, told
        self.is_sharded, self.has_state = bool(getattr(stream, "is_sharded", False)), has_state(stream)
        self._arrays = rows_as_arrays(stream) if collate is default_collate else None
        self.epoch = 0
        self.start: Place | None = None  # where the next iterator begins, if not at the beginning of the epoch
        self._seeds = StepSeeds(seed, torch.device("cpu"), None)

    def __iter__(self) -> Iterator[Taken]:
        samples, first = self._begun()
        before = self._state()
        for batch in count(first):
            with self._seeded(batch):
                taken = self._read(samples, batch)
            if not taken or (self.drop_last and len(taken) < self._to_read):
                return
            after = self._state()
            is_last = len(taken) < self._to_read  # of a full one nobody knows yet
            place = Place(self.epoch, batch + 1, before, after, is_last) if self.has_state else None
            yield self._share(taken, place)
            before = after

    def _read(self, samples: Iterator[Any], batch: int) -> list[Any]:
        try:
            return list(islice(samples, self._to_read))
        except Exception as error:
            error.add_note(f"in batch {batch + 1} of epoch {self.epoch + 1} of the stream {type(self.stream).__name__}")
            raise

    @property
    def _to_read(self) -> int:
        """Samples to read for a batch."""
        return share_size(self.batch_size, self.devices, self.rank) if self.is_sharded else self.batch_size

    def _begun(self) -> tuple[Iterator[Any], int]:
        """The stream's samples, and how many batches have been read of this epoch."""
        start = self.start
        if start is None:
            return self._samples_from(self.epoch), 0
        if start.epoch == self.epoch and not start.is_last:
            return self._samples_from(self.epoch, start.after), start.batch
        # An epoch is over, left where it stood or read to its end: some streams begin the next one from there. So its
        # last batch is read once more, and its end if it had come there.
        samples = self._samples_from(start.epoch, start.before)
        for batch in (start.batch - 1, start.batch)[: 2 if start.is_last else 1]:
            with self._seeded(batch, start.epoch):
                list(islice(samples, self._to_read))
        if start.epoch == self.epoch:
            return iter(()), start.batch
        return self._samples_from(self.epoch), 0

    def _samples_from(self, epoch: int, state: Any = None) -> Iterator[Any]:
        if callable(set_epoch := getattr(self.stream, "set_epoch", None)):
            set_epoch(epoch)
        if state is not None:  # some have none before their first sample
            self.stream.load_state_dict(copy.deepcopy(state))
        with self._seeded(_BEGINNING, epoch):
            return iter(self.stream)

    def _seeded(self, batch: int, epoch: int | None = None) -> Any:
        around = nullcontext() if get_worker_info() is not None else generators_as_before()
        return _Seeded(around, lambda: self._seeds(self.epoch if epoch is None else epoch, batch))

    def _share(self, taken: list[Any], place: Place | None) -> Taken:
        if self.is_sharded:
            return Taken(self._collated(taken), len(taken), 0, place)
        sizes = even_split(len(taken), self.devices)
        start = sum(sizes[: self.rank])
        own = taken[start : start + sizes[self.rank]]
        return Taken(self._collated(own or taken[:1]), len(own), len(taken), place)

    def _collated(self, samples: list[Any]) -> Any:
        try:
            batch = self.collate(samples if self._arrays is None else [self._arrays(row) for row in samples])
        except Exception as error:
            if self.collate is not default_collate:
                raise
            raise InputError(
                f"samples of {type(self.stream).__name__} do not make a batch: {error}; each must have the same parts, "
                "of the same shapes, or the data module a `collate`"
            ) from error
        if not differ(batch, self.floats):
            return batch
        self.told.about(batch, self.floats)
        return cast(batch, self.floats)

    def _state(self) -> Any:
        return copy.deepcopy(self.stream.state_dict()) if self.has_state else None


class _Seeded:
    """Around the reading of a batch: generators seeded, and put back after it where others draw from them."""

    def __init__(self, around: Any, seed: Callable[[], None]) -> None:
        self.around, self.seed = around, seed

    def __enter__(self) -> None:
        self.around.__enter__()
        self.seed()

    def __exit__(self, *error: Any) -> None:
        self.around.__exit__(*error)


def has_state(stream: Any) -> bool:
    """Whether a stream says where it is, and can be told. A state that needs arguments is a loader's to ask for."""
    if not callable(getattr(stream, "load_state_dict", None)) or not callable(getattr(stream, "state_dict", None)):
        return False
    try:
        inspect.signature(stream.state_dict).bind()
    except TypeError:
        return False
    return True


def is_stream(source: Any) -> bool:
    """Whether it can only be iterated over."""
    if isinstance(source, IterableDataset):
        return True
    return (
        hasattr(source, "__iter__") and not hasattr(source, "__getitem__") and not isinstance(source, set | frozenset)
    )


def check_streams(data: Any, splits: dict[str, Any]) -> None:
    """Raises InputError for splits that are streams and cannot be read, and for options that mean nothing then.

    Args:
        data: the data module.
        splits: by name: training, validation, test.
    """
    for name, split in splits.items():
        if is_stream(split):
            _check_stream(split, name)
    if is_stream(splits["training"]):
        _check_options(data)


def _check_stream(stream: Any, split: str) -> None:
    """Raises InputError for a stream that cannot be read here."""
    name, package = type(stream).__name__, type(stream).__module__.split(".")[0]
    if split != "training":
        raise InputError(
            f"the {split} data set is a stream ({name}), and nobody knows how many samples are a whole evaluation; "
            "give a data set with a length, such as a list of its samples"
        )
    if package in _SHARE_THEMSELVES_OUT:
        raise InputError(
            f"{package}'s {name} shares its samples out over devices and workers itself; return its own "
            "StreamingDataLoader from train_dataloader() of a LightningDataModule instead"
        )
    if isinstance(stream, Iterator):
        raise InputError(
            f"the training data set is a {name}, which can be gone through only once; give an object whose __iter__ "
            "begins anew, such as a torch.utils.data.IterableDataset"
        )


def _check_options(data: Any) -> None:
    """Raises InputError for options of a data module that mean nothing where its training data are a stream."""
    if not str(data.batch_size).isdigit() or int(data.batch_size) < 1:
        raise InputError(f"data.batch_size={data.batch_size} of a stream must be a number of samples, e.g. 64")
    if data.batch_growth is not None and grows(data.batch_growth):
        raise InputError("data.batch_growth goes by epochs, and a stream has none of a known length; leave it out")
    if data.num_workers > 1:
        raise InputError(
            f"data.num_workers={data.num_workers}: a stream is read in order, by this process (0) or one worker (1); "
            "for more return a StatefulDataLoader of torchdata from train_dataloader()"
        )
