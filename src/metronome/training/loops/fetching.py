"""The batches of an epoch, straight from where they are read if nothing stands in between."""

from collections.abc import Iterator
from typing import Any

from metronome.training.batches.order import BatchSampler
from metronome.training.lightning_private import DataFetcher, iterator_of, one_loader


class Batches:
    """Fetches from Lightning's fetcher, or past it with the same counts: from the loader itself where it is the only
    one, from its data set where no worker reads ahead."""

    def __init__(self, fetcher: DataFetcher, is_profiled: bool) -> None:
        self.fetcher = fetcher
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
            batch, _, _ = next(fetcher)
            return batch, fetcher.done
        if fetcher.done:
            raise StopIteration
        batch = next(self.iterator)
        fetcher.fetched += 1
        fetcher.done = fetcher.fetched >= fetcher.length  # pyright: ignore
        return batch, fetcher.done
