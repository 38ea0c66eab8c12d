"""The places of a mixture's epoch, batch by batch; what stands at a place is worked out where it is read."""

import logging
from typing import Any

from metronome.training.batches.order import BatchSampler
from metronome.units import BatchSchedule
from metronome.units.mixtures.mix import Mix

log = logging.getLogger("metronome.data")


class MixtureSampler(BatchSampler):
    """This device's share of every batch of one epoch of a mixture: places in the epoch, in their order.

    Args:
        mix: how its sets are mixed.
        schedule: the batch size of each epoch, over all devices.
        options: those of BatchSampler. `shuffle` is whether each set is reordered in each of its own epochs.
    """

    def __init__(self, mix: Mix, schedule: BatchSchedule, *, shuffle: bool = True, **options: Any) -> None:
        super().__init__(mix.samples_per_epoch, schedule, shuffle=False, **options)
        self.mix, self.shuffles_sets = mix, shuffle

    @property
    def order(self) -> dict[str, Any]:
        return super().order | {"shuffle": self.shuffles_sets, "mixture": self.mix.described()}

    def check_change(self, before: dict[str, Any]) -> None:
        names = ("num_samples", "seed", "mixture")
        if "mixture" in before and any(before[name] != self.order[name] for name in names):
            log.warning(
                "the checkpoint is of another mixture: each set goes on where this one would be by now, so some of its "
                "samples are seen again before others are seen once"
            )
