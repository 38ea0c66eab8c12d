"""What a planned training takes of each set of a mixture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metronome.units.epoch_series import EpochPlan
from metronome.units.mixtures.mix import LARGEST_BLOCK, Mix


@dataclass(frozen=True)
class MixedPlan:
    """Samples of each set in the first epoch, and in the whole training; the latter None where its length is not known,
    or it has too many epochs that are cut short to count each."""

    mix: Mix
    first_epoch: tuple[int, ...]
    total: tuple[int, ...] | None

    @classmethod
    def of(cls, mix: Mix, per_epoch: Sequence[EpochPlan], epochs: int | None) -> "MixedPlan":
        """
        Args:
            mix: how the sets are mixed.
            per_epoch: the epochs of the plan that it lists, the first at least.
            epochs: all that there are; None where that is not known.
        """
        first = per_epoch[0]
        in_first = mix.counts_in_epoch(0, first.samples)
        if epochs is None:
            return cls(mix, in_first, None)
        if all(epoch.samples == mix.samples_per_epoch for epoch in per_epoch):
            return cls(mix, in_first, mix.counts(epochs * mix.samples_per_epoch))
        if epochs > len(per_epoch):
            return cls(mix, in_first, None)
        counts = [mix.counts_in_epoch(epoch.epoch, epoch.samples) for epoch in per_epoch]
        return cls(mix, in_first, tuple(map(sum, zip(*counts, strict=True))))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """By set: `num_samples` in it, its `weight` (a part of 1), the samples of the first epoch and of the whole
        training, and how many times the latter goes through the set."""
        found: dict[str, dict[str, Any]] = {}
        for i, (name, size) in enumerate(self.mix.sizes.items()):
            total = None if self.total is None else self.total[i]
            found[name] = {
                "num_samples": size,
                "weight": self.mix.parts[i] / self.mix.block,
                "samples_per_epoch": self.first_epoch[i],
                "total_samples": total,
                "times": None if total is None else total / size,
            }
        return found

    def rows(self) -> list[tuple[str, str]]:
        """A line for each set."""
        mix, rows = self.mix, []
        shares = [_share(part, mix.block) for part in mix.parts]
        widths = max(map(len, shares)), max(len(f"{n:,}") for n in self.first_epoch)
        for i, (name, size) in enumerate(mix.sizes.items()):
            samples = self.first_epoch[i]
            text = f"{shares[i]:>{widths[0]}}: {samples:{widths[1]},} an epoch, {_times(samples, size)} its {size:,}"
            if self.total is not None and self.total != self.first_epoch:
                text += f", {_times(self.total[i], size)} in all"
            rows.append((f"  {name}", text))
        if mix.is_rounded:
            rows.append(("", f"weights rounded to whole samples of a block of {LARGEST_BLOCK:,}"))
        return rows


def _share(part: int, block: int) -> str:
    """
    >>> _share(3, 4), _share(25559, 32768)
    ('3 in 4', '78%')
    """
    return f"{part} in {block}" if block < 1000 else f"{100 * part / block:.3g}%"


def _times(samples: int, size: int) -> str:
    """
    >>> _times(1257, 1257), _times(9720, 1257), _times(3, 1257), _times(1258, 1257)
    ('once', '7.73 times', '0.00239 times', '1.00 times')
    """
    times = samples / size
    if samples == size:
        return "once"
    return f"{times:.2f} times" if 1 <= times < 2 else f"{times:.3g} times" if times < 100 else f"{times:,.0f} times"
