"""The loader of a stream: batches in steps, and where they were left."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from metronome.data.rows import whole_batch
from metronome.data.streams.reader import Place, StreamReader, Taken
from metronome.units import InputError


class StreamLoader(DataLoader):
    """Gives this device's share of every batch of a stream.

    Args:
        reader: of the stream.
        epoch_now: the epoch that the training is in.
        options: `num_workers` (0 or 1) and `pin_memory`, as DataLoader has them.

    Attributes:
        is_alike_on_all_devices: whether each device has as many batches without asking the others.
        knows_its_end: whether its state at an epoch's end says so.
    """

    knows_its_end = True

    def __init__(self, reader: StreamReader, epoch_now: Callable[[], int], **options: Any) -> None:
        super().__init__(reader, batch_size=None, collate_fn=whole_batch, **options)
        self.reader, self.epoch_now = reader, epoch_now
        self.is_alike_on_all_devices = not reader.is_sharded
        self._sizes: dict[int, tuple[int, int]] = {}  # by the step of the epoch: share and batch
        self._place: Place | None = None  # after the batch that was given last
        self._is_loaded = False  # whether that comes from a checkpoint

    def __iter__(self) -> Iterator[Any]:
        reader, epoch = self.reader, self.epoch_now()
        # Here the stream itself knows where it is, but after a checkpoint; a worker begins with one that knows nothing.
        reader.epoch = epoch
        reader.start = self._place if self._is_loaded or self.num_workers else None
        first = reader.start.batch if reader.start is not None and reader.start.epoch == epoch else 0
        self._is_loaded = False
        taken: Taken
        step = first - 1
        for step, taken in enumerate(super().__iter__(), first):
            self._sizes = {
                step - 1: self._sizes.get(step - 1, (0, 0)),
                step: (taken.share_samples, taken.batch_samples),
            }
            self._place = None if taken.place is None else Place(*taken.place)
            yield taken.share
        if step < 0:
            few = "as many samples as a batch has, and data.drop_last=true" if reader.drop_last else "a sample"
            raise InputError(
                f"the stream {type(reader.stream).__name__} did not give {few}, in epoch {epoch + 1}; its __iter__ "
                "must begin anew each time"
            )
        if self._place is not None and self._place.epoch == epoch:
            self._place = self._place._replace(is_last=True)

    def sizes_at(self, step: int) -> tuple[int, int] | None:
        """Samples in this device's share of the batch of a step, and in the batch; None where the devices must be
        asked. Of the step being made, and the one that has been fetched ahead."""
        return self._sizes.get(step) if self.is_alike_on_all_devices else None


class StatefulStreamLoader(StreamLoader):
    """The same for a stream that says where it is; the training's checkpoints keep it."""

    def state_dict(self) -> dict[str, Any]:
        return {} if self._place is None else self._place._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._place, self._is_loaded = (Place(**state), True) if state else (None, False)


def loader_of(reader: StreamReader, epoch_now: Callable[[], int], **options: Any) -> StreamLoader:
    return (StatefulStreamLoader if reader.has_state else StreamLoader)(reader, epoch_now, **options)
