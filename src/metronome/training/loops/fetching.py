"""The batches of an epoch, straight from where they are read if nothing stands in between."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.order import BatchSampler
from metronome.training.guards.agreement import Agreement
from metronome.training.lightning_private import DataFetcher, iterator_of, one_loader
from metronome.units import RunFailed


class Batches:
    """Fetches from Lightning's fetcher, or past it with the same counts: from the loader itself where it is the only
    one, from its data set where no worker reads ahead. `before_fetch` is called before Lightning's fetches."""

    def __init__(self, fetcher: DataFetcher, is_profiled: bool, before_fetch: Callable[[], None]) -> None:
        self.fetcher, self.before_fetch = fetcher, before_fetch
        loader = None if is_profiled else one_loader(fetcher)
        self.iterator: Iterator[Any] | None = None
        if loader is not None:
            sampler, is_here = loader.batch_sampler, loader.num_workers == 0 and not loader.pin_memory
            reads_whole = is_here and isinstance(sampler, BatchSampler) and hasattr(loader.dataset, "__getitems__")
            if reads_whole:
                read = getattr(loader.dataset, "read", loader.dataset.__getitems__)
                self.iterator = (loader.collate_fn(read(share)) for share in sampler)
            else:
                self.iterator = iterator_of(fetcher)

    def next(self) -> tuple[Any, bool]:
        """A batch, and whether it is the epoch's last. Raises StopIteration where there is none."""
        fetcher = self.fetcher
        if self.iterator is None:
            self.before_fetch()
            batch, _, _ = next(fetcher)
            return batch, fetcher.done
        if fetcher.done:
            raise StopIteration
        try:
            batch = next(self.iterator)
        except StopIteration:
            warnings.warn(
                f"the training loader has ended after {fetcher.fetched:,} of the {fetcher.length:,} batches that its "
                "length says: the epoch is that much shorter", stacklevel=2,
            )  # fmt: skip
            raise
        fetcher.fetched += 1
        fetcher.done = fetcher.fetched >= fetcher.length  # pyright: ignore
        return batch, fetcher.done


class BatchesOfUnknownNumber(Batches):
    """Of a loader without a length, on several devices: one whose loader has ended would leave the others waiting.

    Args:
        fetcher, is_profiled, before_fetch: see `Batches`.
        agreement: of the devices.
    """

    def __init__(
        self, fetcher: DataFetcher, is_profiled: bool, before_fetch: Callable[[], None], agreement: Agreement
    ) -> None:
        super().__init__(fetcher, is_profiled, before_fetch)
        self.agreement = agreement

    def next(self) -> tuple[Any, bool]:
        """The same. Raises RunFailed, on all devices, where some have more batches than others."""
        try:
            batch, is_last = super().next()
            left = 1 if is_last else 2
        except StopIteration:
            batch, is_last, left = None, True, 0
        _check_alike(self.agreement, left)
        if left == 0:
            raise StopIteration
        return batch, is_last


def batches_of(
    fetcher: DataFetcher, is_profiled: bool, agreement: Agreement, before_fetch: Callable[[], None]
) -> Batches:
    """The batches of an epoch, in the way that its loader allows. `before_fetch` is called where Lightning fetches."""
    is_alike = getattr(agreement.trainer.train_dataloader, "is_alike_on_all_devices", False)
    if not is_alike and agreement.trainer.world_size > 1 and batch_sampler(agreement.trainer) is None:
        if fetcher.length is None:
            return BatchesOfUnknownNumber(fetcher, is_profiled, before_fetch, agreement)
        _check_alike(agreement, int(fetcher.length))
    return Batches(fetcher, is_profiled, before_fetch)


def _check_alike(agreement: Agreement, batches: int) -> None:
    most, fewest = agreement.largest(batches, -batches)
    if most != -fewest:
        raise RunFailed(
            "the training loader has more batches on some devices than on others, which would be waited for for ever; "
            "let it give each device as many, or give a data set that can be indexed, which is shared out"
        )
