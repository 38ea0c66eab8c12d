"""Which samples make up each batch, and which of them this device takes."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from metronome.training.batches.seeds import Order, order_at
from metronome.units import BatchSchedule, InputError, share_size

_AT_ONCE = 4096  # samples of this device worked out together, in small batches: what numpy takes a call is shared


class Share(NamedTuple):
    """This device's part of one batch: the sample indices to read, and the epoch to read them in."""

    epoch: int
    indices: np.ndarray  # int64, shape (samples,)


class BatchSampler(Sampler[Share]):
    """This device's share of every batch of one epoch, from a given step on.

    The order of an epoch depends on (seed, epoch) alone. Each batch is cut into one contiguous share per device.
    A device whose share of a small last batch would be empty reads one sample of it all the same, and the
    step gives it weight 0: every device must take part in the step's collectives.

    Args:
        num_samples: samples in the data set.
        schedule: the batch size of each epoch, over all devices.
        seed: the run's seed.
        shuffle: whether to reorder the samples each epoch.
        drop_last: whether to leave out a last batch that is smaller than the others.
        devices: processes that train together.
        rank: which of them this is.
    """

    def __init__(
        self,
        num_samples: int,
        schedule: BatchSchedule,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        devices: int = 1,
        rank: int = 0,
    ) -> None:
        self.num_samples, self.schedule = num_samples, schedule
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.devices, self.rank = devices, rank
        self.epoch, self.first_step = 0, 0

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, step) from which the next iterator starts."""
        return self.epoch, self.first_step

    @position.setter
    def position(self, position: tuple[int, int]) -> None:
        self.epoch, self.first_step = position

    @property
    def order(self) -> dict[str, Any]:
        """What decides on the samples of each step of this epoch, besides the epoch itself."""
        size = self.schedule.at(self.epoch)
        return {"num_samples": self.num_samples, "batch_size": size, "seed": self.seed, "shuffle": self.shuffle}

    def check_order(self, before: dict[str, Any]) -> None:
        """Raises InputError if the samples that are left of an epoch are not those that a checkpoint left."""
        for name, value in self.order.items():
            if before.get(name) != value:
                raise InputError(
                    f"the checkpoint was written in the middle of an epoch with {name}={before.get(name)}, and this "
                    f"run has {name}={value}: which samples are left of it cannot be told; keep "
                    f"{name}={before.get(name)}, or start from a checkpoint at the end of an epoch"
                )

    def check_change(self, before: dict[str, Any]) -> None:
        """What is to be said of a checkpoint from an epoch's end, after which the order may change."""

    def samples(self, step: int) -> np.ndarray:
        """The samples of the batch of this step of the epoch, over all devices: int64, shape (samples,)."""
        size = self.schedule.at(self.epoch)
        return self._order()(np.arange(step * size, min((step + 1) * size, self.num_samples)))

    def _order(self) -> Order:
        return order_at(self.seed, self.epoch, self.num_samples) if self.shuffle else lambda places: places

    def __len__(self) -> int:
        """Steps in this epoch, wherever the iterator starts."""
        whole, rest = divmod(self.num_samples, self.schedule.at(self.epoch))
        return whole if self.drop_last or not rest else whole + 1

    def batch_size(self, step: int) -> int:
        """Samples in the batch of this step of the epoch, over all devices."""
        size = self.schedule.at(self.epoch)
        return min(size, self.num_samples - step * size)

    def share_size(self, step: int) -> int:
        """Samples of that batch that fall to this device; 0 where it only keeps the others company."""
        return share_size(self.batch_size(step), self.devices, self.rank)

    def __iter__(self) -> Iterator[Share]:
        epoch, size, order = self.epoch, self.schedule.at(self.epoch), self._order()
        whole, own = self.num_samples // size, self._own_places(size)
        ahead = max(1, _AT_ONCE // len(own))
        for first in range(self.first_step, whole, ahead):
            starts = np.arange(first, min(first + ahead, whole)) * size
            for indices in order(starts[:, None] + own):
                yield Share(epoch, indices)
        for step in range(max(self.first_step, whole), len(self)):  # the last batch, if it is smaller
            yield Share(epoch, order(step * size + self._own_places(self.batch_size(step))))

    def _own_places(self, batch_size: int) -> np.ndarray:
        """Where in a batch this device's share is: int64, shape (samples,); the first place if the share is empty."""
        start, end = _piece(batch_size, self.devices, self.rank)
        return np.arange(start, end) if end > start else np.zeros(1, dtype=np.int64)


class EvaluationSampler(Sampler[Share]):
    """This device's share of every batch of an evaluation: each sample goes to exactly one device.

    Batches are of the same samples on every layout. Each is cut evenly over the devices, so that all of them run the
    same number of batches: a model that exchanges its buffers in forward would hang otherwise, and so would the
    reduction of the results.
    Where a last batch has fewer samples than there are devices, those without one read a sample that does
    not count.

    Args:
        num_samples: samples in the data set.
        batch_size: samples in a batch, over all devices.
        devices: processes that evaluate together.
        rank: which of them this is.
        at_once: samples that a device takes through one forward pass; None: its share of a batch.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, devices: int = 1, rank: int = 0, at_once: int | None = None
    ) -> None:
        self.num_samples, self.size, self.devices, self.rank = num_samples, batch_size, devices, rank
        self.batches = -(-num_samples // batch_size)
        self.at_once = at_once or share_size(batch_size, devices, 0)

    def __len__(self) -> int:
        return self.batches

    def share_size(self, batch: int) -> int:
        """Samples of this batch that count on this device."""
        start, end = self._piece(batch)
        return end - start

    def pieces(self, batch: int) -> int:
        """Into how many pieces every device cuts its share of this batch."""
        return max(1, -(-share_size(self._samples(batch), self.devices, 0) // self.at_once))

    def __iter__(self) -> Iterator[Share]:
        for batch in range(self.batches):
            start, end = self._piece(batch)
            yield Share(0, np.arange(start, end) if end > start else np.zeros(1, dtype=np.int64))

    def _piece(self, batch: int) -> tuple[int, int]:
        start, end = _piece(self._samples(batch), self.devices, self.rank)
        return batch * self.size + start, batch * self.size + end

    def _samples(self, batch: int) -> int:
        return min(self.size, self.num_samples - batch * self.size)


def _piece(count: int, parts: int, index: int) -> tuple[int, int]:
    """Where piece `index` of `even_split(count, parts)` starts and ends, without making the list."""
    size, longer = divmod(count, parts)
    start = index * size + min(index, longer)
    return start, start + share_size(count, parts, index)
