"""How many samples a training has seen of each set of a mixture: counted by the epoch, so that no step has to."""

from dataclasses import dataclass
from typing import Any

from metronome.units.mixtures.mix import Mix


@dataclass
class CountsOfMixture:
    """The counts where an epoch began, from which those of any later sample of it follow.

    Attributes:
        before: of each set, by name, the samples seen of it and those in it; of one that is no longer mixed in too.
        mix: how the samples of the epoch are mixed.
        epoch: which it is, from 0.
        samples: of the training, of all sets, where it began.
    """

    before: dict[str, tuple[int, int]]
    mix: Mix
    epoch: int
    samples: int

    @classmethod
    def begun(
        cls, so_far: "CountsOfMixture | None", mix: Mix, epoch: int, samples: int, steps_taken: int
    ) -> "CountsOfMixture":
        """Where an epoch begins, after so many samples of the training; or goes on, after so many steps of it."""
        if so_far is not None and steps_taken and so_far.epoch == epoch:
            return so_far
        return cls({} if so_far is None else so_far.counts(samples), mix, epoch, samples)

    def counts(self, samples: int) -> dict[str, tuple[int, int]]:
        """Of each set the samples seen of it, and those in it, once the training has seen so many samples of all."""
        found = dict(self.before)
        new = self.mix.counts_in_epoch(self.epoch, samples - self.samples)
        for (name, size), count in zip(self.mix.sizes.items(), new, strict=True):
            found[name] = found.get(name, (0, size))[0] + count, size
        return found

    def in_words(self, samples: int) -> dict[str, dict[str, float]]:
        """The same: of each set its `samples`, and `epochs`, the times that it was gone through."""
        return {
            name: {"samples": count, "epochs": count / size} for name, (count, size) in self.counts(samples).items()
        }

    # ---- in a checkpoint --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        mix = self.mix
        return {
            "before": {name: list(counts) for name, counts in self.before.items()},
            "mix": [dict(mix.sizes), list(mix.parts), mix.samples_per_epoch],
            "epoch": self.epoch,
            "samples": self.samples,
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> "CountsOfMixture":
        sizes, parts, samples_per_epoch = state["mix"]
        before = {name: (counts[0], counts[1]) for name, counts in state["before"].items()}
        return cls(before, Mix(sizes, tuple(parts), samples_per_epoch), state["epoch"], state["samples"])
