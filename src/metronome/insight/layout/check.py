"""Whether a training gives the same however its batches are cut: measured on the first one, with the reason."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from metronome.insight.layout.measure import Measure, differences
from metronome.insight.layout.reasons import Reason, Tolerance, reasons
from metronome.training import Trainer
from metronome.training.lightning_private import EndOfFit
from metronome.training.step.step import CutBatch, Passes, Step
from metronome.units import InputError, RunFailed

log = logging.getLogger("metronome.layout")

_PARAMETERS_SHOWN = 5
# By precision. In float64 rounding is 1e-15, and nothing real was found to be as small as 1e-9.
_TOLERANCES = {"64-true": Tolerance(1e-9, 1e-6), "32-true": Tolerance(1e-4, 1e-2)}
_LOW = Tolerance(2e-2, 1e-1)


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        samples: in the batch.
        cuts: into how many micro-batches it was cut.
        precision: the Trainer's.
        apart: relative differences from the whole batch, the largest over the cuts: of each parameter's gradient by
            name, and under `""` of the loss.
        reasons: why; none where it is exact.
        draws: whether random numbers are drawn in the step.
    """

    samples: int
    cuts: Sequence[int]
    precision: str
    apart: dict[str, float]
    reasons: Sequence[Reason]
    draws: bool = False

    @property
    def largest(self) -> float:
        return max(self.apart.values())

    def text(self) -> str:
        """One line if the training is exact, else what differs most, and a line for each reason."""
        cuts = " and ".join(map(str, self.cuts))
        batch = f"the first batch ({self.samples:,} samples), whole and cut in {cuts}"
        if not self.reasons:
            # One layer of dropout on a CPU: its numbers come from one stream, in the order of the samples.
            but = "; random numbers are drawn, alike here, which other devices draw otherwise" if self.draws else ""
            return f"exact      {batch}: loss and gradient are the same, to {self.largest:.1e} in {self.precision}{but}"
        names = sorted((name for name in self.apart if name), key=lambda name: -self.apart[name])
        shown = names[:_PARAMETERS_SHOWN]
        lines = [f"not exact  {batch}: relative differences in {self.precision}"]
        lines += [f"           {self.apart[name]:.1e}  gradient of {name}" for name in shown]
        if more := len(names) - len(shown):
            lines.append(f"           up to {self.apart[names[len(shown)]]:.1e} in {more} more")
        lines.append(f"           {self.apart['']:.1e}  loss")
        return "\n".join([*lines, *(f"reason     {reason.line}" for reason in self.reasons)])


class LayoutCheck(Callback):
    """Makes no step: looks at the first batch, whole and cut, says what it finds, and ends the fit.

    What it finds goes to the logger `metronome.layout`, and stays in `finding`. The passes are those of the real step,
    with its weights and its seeds; weights, state and counters are put back.

    Raises:
        InputError: for what cannot be cut (manual optimization, a batch of one sample), several devices, no data, and
            where the Trainer is not Metronome's.
    """

    finding: Finding | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not isinstance(trainer, Trainer):
            raise InputError("LayoutCheck looks at steps of metronome.training.Trainer, and this is another")
        if not pl_module.automatic_optimization:
            raise InputError(
                f"{type(pl_module).__name__} optimizes manually: its training_step makes the steps, and no batch is cut"
            )
        if trainer.world_size > 1:
            raise InputError("a layout is looked at on one device; give trainer.devices=1 trainer.strategy=auto")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.finding, self._trainer = None, trainer
        trainer.fit_loop.epoch_loop.step.points.around_passes = self._look  # pyright: ignore

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise InputError("there is no training batch to look at; give data, and no trainer.limit_train_batches=0")

    def _look(self, step: Step, batch: CutBatch) -> Passes:
        trainer: Any = self._trainer
        state = trainer.state_of_training
        self.finding = _find(trainer, step, batch, _cuts(state.accumulate, batch.share_samples))
        state.counters.samples -= batch.batch_samples  # nothing was trained
        log.info("%s", self.finding.text())
        raise EndOfFit


def _cuts(accumulation: int, samples: int) -> list[int]:
    """The run's own cut, or where it has none 2 and 4: as far as two samples are left in each."""
    if samples < 2:
        raise InputError(f"the first batch has {samples} sample: nothing to cut; give a larger data.batch_size")
    if accumulation > 1:
        return [min(accumulation, samples)]
    return [cut for cut in (2, 4) if cut == 2 or samples >= 2 * cut]


def _find(trainer: Trainer, step: Step, batch: CutBatch, cuts: Sequence[int]) -> Finding:
    precision = str(trainer.precision)
    tolerance, measure = _TOLERANCES.get(precision, _LOW), Measure(trainer, step, batch)
    whole = measure(1)
    if not whole.is_finite:
        raise RunFailed("the loss or the gradient of the first batch is not finite, whole already")
    again = differences(measure(1), whole)
    if max(again.values()) > tolerance.gradient:
        line = (
            "twice the same batch, from the same weights and seeds, gives this: state is kept, or random numbers are "
            "drawn, where nothing can put them back (no buffer, no plain attribute of a module)"
        )
        return Finding(batch.batch_samples, [1], precision, again, [Reason("not repeatable", line)])
    pieces = {cut: measure(cut) for cut in cuts}
    by_cut = [differences(made, whole) for made in pieces.values()]
    apart = {name: max(found[name] for found in by_cut) for name in by_cut[0]}
    is_exact = max(apart.values()) <= tolerance.gradient
    why = [] if is_exact else reasons(measure, whole, pieces, tolerance)
    measure.put_back()
    return Finding(batch.batch_samples, cuts, precision, apart, why, bool(whole.drawn))
