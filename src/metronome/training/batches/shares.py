"""This device's share of a batch: how many samples it has, and how it is cut into micro-batches."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import lightning as L

from metronome.training.batches.cut import HINT, count_samples, cut_batch, micro_batch_sizes
from metronome.training.batches.loaders import batch_sampler, batch_sizes, collates_by_default, parts_of
from metronome.training.place import data_devices, one_of_each
from metronome.training.state import TrainingState
from metronome.units import BatchSchedule, InputError, RunFailed, accumulation_at, micro_batches_of, share_size

log = logging.getLogger("metronome.training")


class BatchSizes(NamedTuple):
    """Samples of one batch: those of this device's share (0 if it only keeps company), all of them, and those of the
    largest share (0 where our sampler knows it)."""

    share: int
    batch: int
    largest: int = 0


class Shares:
    """Counts and cuts what a loader gives to this device: the share of a step, or a batch of an evaluation.

    A data module (or module) with `count_samples(batch)` and `cut_batch(batch, sizes)` has its own way. `of_each` gives
    the number of each device, all of which call it together.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState, of_each: Callable[[int], list[int]]) -> None:
        self.trainer, self.state, self.of_each = trainer, state, of_each
        self._has_doubted = False

    @cached_property
    def devices(self) -> int:
        """Among which a batch is shared out: asked for in each step, and always as many."""
        return data_devices(self.trainer)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step in this epoch: it grows along with a growing batch, so that they stay as small."""
        sampler = batch_sampler(self.trainer)
        if sampler is None:
            return self.state.accumulate
        size = sampler.schedule.at(sampler.epoch)
        return accumulation_at(self.state.accumulate, sampler.schedule, size, self.devices)

    def sizes(self, share: Any) -> BatchSizes:
        """Samples in this device's share and in the whole batch, given the share. All devices must call it together.

        Our sampler knows; the samples of any other loader's batch are counted, and summed over the devices.
        """
        trainer = self.trainer
        sampler = batch_sampler(trainer)
        if sampler is not None:
            return BatchSizes(sampler.share_size(self.state.step), sampler.batch_size(self.state.step))
        told = getattr(trainer.train_dataloader, "sizes_at", None)  # a loader that has seen the whole batch
        if told is not None and (sizes := told(self.state.step)) is not None:
            share_samples, batch_samples = sizes
            return BatchSizes(share_samples, batch_samples, share_size(batch_samples, self.devices, 0))
        count = self._count_if_need_be(share)
        if trainer.world_size == 1:
            return BatchSizes(count, count, count)
        every = one_of_each(trainer, self.of_each(count))
        return BatchSizes(count, sum(every), max(every))

    def micro_batches(self, batch_samples: int, largest: int) -> int:
        """Into how many micro-batches every device cuts its share of a batch: as many on all, as they meet in each.

        Args:
            batch_samples, largest: of `BatchSizes`.
        """
        accumulation = self.accumulation
        if accumulation == 1:
            return 1
        sampler, devices = batch_sampler(self.trainer), self.devices
        if sampler is not None:
            return micro_batches_of(batch_samples, sampler.schedule.at(sampler.epoch), devices, accumulation)
        return micro_batches_of(largest * devices, self._whole_share(largest) * devices, devices, accumulation)

    def count(self, batch: Any) -> int:
        """Samples in a batch that a loader gave to this device. Raises InputError if they cannot be counted."""
        return (self._own("count_samples") or count_samples)(batch)

    def cut(self, share: Any, sizes: Sequence[int]) -> list[Any]:
        """The micro-batches of a share. Raises InputError for one that cannot be cut so."""
        if (own := self._own("cut_batch")) is not None:
            return own(share, sizes)
        return cut_batch(share, sizes, self._doubt)

    def pieces(self, share: Any, samples: int, parts: int) -> tuple[Sequence[Any], list[int]]:
        """A share in so many pieces, and the samples in each; where it has fewer samples, the rest are pieces of one
        that counts 0 and keeps the other devices company. Raises as `cut`."""
        if samples == 0:
            return [share] * parts, [0] * parts
        if parts == 1:
            return [share], [samples]  # a share that is not cut need not have a countable structure
        sizes = micro_batch_sizes(samples, parts)
        pieces = self.cut(share, sizes) if len(sizes) > 1 else [share]
        missing = parts - len(sizes)
        return [*pieces, *[pieces[0]] * missing], sizes + [0] * missing

    def cut_finer(self, batch_samples: int, largest: int, reason: str | None) -> None:
        """More micro-batches from this batch on. Raises RunFailed if they hold one sample each already."""
        state, samples = self.state, largest or share_size(batch_samples, self.devices, 0)
        before = self.micro_batches(batch_samples, largest)
        if before >= samples:
            where = reason or "on another device"
            raise RunFailed(
                f"out of memory in step {self.trainer.global_step + 1:,} with one sample at a time ({where})"
            )
        # Where accumulation grows along, at most as many as there are samples in the first batch: those of this follow.
        sampler = batch_sampler(self.trainer)
        most = self._whole_share(samples)
        if sampler is not None and sampler.schedule.accumulate:
            most = largest_share(sampler.schedule, self.devices)
        while self.micro_batches(batch_samples, largest) == before:
            state.accumulate = min(2 * state.accumulate, most)

    def _whole_share(self, largest: int) -> int:
        """Samples in the largest share of a batch that is not a last, smaller one; of this one, where none is known."""
        sampler = batch_sampler(self.trainer)
        if sampler is not None:
            return share_size(sampler.schedule.at(sampler.epoch), self.devices, 0)
        size = getattr(self.trainer.train_dataloader, "batch_size", None)
        return max(size, largest) if isinstance(size, int) else largest

    def _count_if_need_be(self, share: Any) -> int:
        loaders = self.trainer.train_dataloader
        try:
            if (own := self._own("count_samples")) is not None:
                return own(share)
            parts = [(loader, part) for loader, part in parts_of(loaders, share) if part is not None]
            counts = [self._count_of(loader, part) for loader, part in parts]
        except InputError:
            if self.devices > 1 or self.state.may_be_cut:
                raise
            # Uncut and alone, the batch weighs 1 whatever is in it; only the counter needs a number.
            return getattr(loaders, "batch_size", None) or 1
        if self.state.may_be_cut and len(set(counts)) > 1:
            found = " and ".join(map(str, counts))
            raise InputError(
                f"the loaders' parts of a batch have {found} samples, and are cut as one batch only where they have as "
                f"many; use trainer.accumulate_grad_batches=1, or {HINT}"
            )
        return counts[0]

    def _count_of(self, loader: Any, part: Any) -> int:
        """Samples in a loader's part of a batch."""
        sizes = batch_sizes(loader, self.state.step)
        count = count_samples(part, sizes)
        if self.state.may_be_cut and sizes and count not in sizes:
            raise InputError(
                f"the loader makes batches of {sizes[0]} samples, and the first dimension of this one is {count}: it "
                f"may be another dimension; {HINT}"
            )
        return count

    def _own(self, name: str) -> Any:
        owners = (self.trainer.datamodule, self.trainer.lightning_module)  # pyright: ignore
        return next((getattr(owner, name) for owner in owners if hasattr(owner, name)), None)

    def _doubt(self, words: str) -> None:
        """Say so once, unless the loader joins samples in the one way in which all is certain."""
        if self._has_doubted or collates_by_default(self.trainer):
            return
        self._has_doubted = True
        log.warning("cutting a batch: %s; if that is not what it is, %s", words, HINT)


def largest_share(schedule: BatchSchedule, devices: int) -> int:
    """The most samples of a device in a batch of the first epoch."""
    return share_size(schedule.at(0), devices, 0)
