"""The first step whose batch is cut is looked at: what is not the whole batch's is said, each in one line."""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import lightning as L

from metronome.training.logged.results import Results
from metronome.training.looks.across_samples import (
    HOOK,
    backward_hooks,
    batch_norms,
    is_joined_over_devices,
    spectral_norms,
)
from metronome.training.looks.left_behind import LeftBehind
from metronome.training.looks.loss_calls import LossCalls, is_compiled
from metronome.training.looks.loss_graph import LossGraph
from metronome.training.place import data_devices
from metronome.training.state import TrainingState
from metronome.training.step.step import CutBatch, Passes, Step, StepPoints

log = logging.getLogger("metronome.training")

_MOST_NAMES = 3
_KNOWN = "metronome.", "lightning."  # whose callbacks only look


class FirstLook:
    """Around the passes of the first step of a fit that is cut, and in no other.

    Args:
        trainer: whose steps they are.
        state: of the training.
        points: where it comes in, and goes out again.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState, points: StepPoints) -> None:
        self.trainer, self.state, self.points = trainer, state, points
        self._inner: Any = None
        self._is_over = True

    def begin(self) -> None:
        """Before the first step of a fit; nothing where no batch is cut."""
        automatic = self.trainer.lightning_module.automatic_optimization
        self._is_over = not automatic or not (self.state.may_be_cut or data_devices(self.trainer) > 1)
        if not self._is_over and self.points.around_passes is not self:
            self._inner, self.points.around_passes = self.points.around_passes, self

    def __call__(self, step: Step, batch: CutBatch) -> Passes:
        pieces = len(batch.sizes) * step.devices
        if self._is_over or pieces == 1:
            return self._inner(step, batch)
        self._is_over = True
        if self.points.around_passes is self:  # another may have come in around it meanwhile
            self.points.around_passes = self._inner
        module = step.ways.module
        left = LeftBehind(module)
        calls = LossCalls(left)
        passes = self._inner(step, batch) if is_compiled(module) else self._watched(step, batch, calls, left)
        if self.trainer.is_global_zero:
            for line in _lines(module, calls, left, len(batch.sizes), step.devices):
                log.warning("%s (+debug=layout measures how much)", line)
            if calls.draws or left.draws:
                log.info("each piece of a batch draws random numbers (dropout) of its own: another draw than uncut")
            if len(batch.sizes) > 1 and (names := _named(sorted(left.plain))):
                log.info(
                    "training_step of %s changes %s for each piece of a batch, %s times in a step; what should go by "
                    "steps belongs in on_train_batch_start or on_train_batch_end", type(module).__name__, names,
                    f"{len(batch.sizes):,}",
                )  # fmt: skip
            if names := _reduced_otherwise(step.results):
                log.info("%s: reduced over pieces; right for counts and extremes of samples, not for means", names)
        return passes

    def _watched(self, step: Step, batch: CutBatch, calls: LossCalls, left: LeftBehind) -> Passes:
        """The passes; each piece as it was cut first, since one that is done again after a failure tells nothing."""
        ways, sizes = step.ways, iter(list(batch.sizes))
        training_step, norms = ways.training_step, bool(batch_norms(ways.module))

        def watched(*arguments: Any) -> Any:
            calls.begin(next(sizes, 0))
            with contextlib.suppress(Exception):
                left.before()
            with calls:
                output = training_step(*arguments)
            with contextlib.suppress(Exception):  # a graph as nobody foresaw it: a look must not end a training
                left.after()
                calls.add(LossGraph(_loss(output), calls.samples, norms))
            return output

        ways.training_step = watched
        try:
            return self._inner(step, batch)
        finally:
            del ways.training_step


def _lines(module: L.LightningModule, calls: LossCalls, left: LeftBehind, parts: int, devices: int) -> list[str]:
    """What is not exact, as far as it can be seen in one step."""
    name, pieces, lines = type(module).__name__, parts * devices, []
    cut = f"the batch is cut in {pieces:,}, and"
    norms = [n for n, layer in batch_norms(module).items() if parts > 1 or not is_joined_over_devices(layer)]
    if norms:
        lines.append(
            f"{cut} BatchNorm ({_named(norms)}) goes by each piece alone, so the result depends on the cut; use "
            "GroupNorm or LayerNorm, or do not cut"
        )
    if parts > 1 and (norms := list(spectral_norms(module))):
        lines.append(
            f"{cut} spectral norm ({_named(norms)}) iterates once for each piece, so the result depends on the cut "
            "while it converges"
        )
    hooks = backward_hooks(module).items()
    if parts > 1 and (theirs := [n for n, who in hooks if not type(who).__module__.startswith(_KNOWN)]):
        lines.append(
            f"{cut} {HOOK} of {_named(theirs)} is called for each piece, on a part of the gradient; change gradients "
            "in on_before_optimizer_step"
        )
    if parts > 1 and left.weights:
        lines.append(
            f"{cut} training_step of {name} changes weights ({_named(sorted(left.weights))}) for each piece; change "
            "them in on_train_batch_end"
        )
    if parts > 1 and (state := sorted(left.buffers | left.carried)):
        lines.append(
            f"{cut} training_step of {name} goes on from what it has left for the piece before ({_named(state)}), not "
            "the batch before"
        )
    if calls.reasons and (calls.couples or not callable(getattr(module, "loss_weight", None))):
        do = (
            "each piece is a batch of its own to it; do not cut, if it is to see all pairs"
            if calls.couples
            else f"give {name} a method loss_weight(batch), which says what a micro-batch weighs"
        )
        lines.append(f"{cut} the loss of {name} is no mean over samples ({'; '.join(calls.reasons.values())}); {do}")
    return lines


def _loss(output: Any) -> Any:
    return output["loss"] if isinstance(output, Mapping) else output


def _reduced_otherwise(results: Results) -> str:
    """Numbers that are logged with a `reduce_fx` that is no mean."""
    logged = [value.meta for value in results.values() if value.is_tensor and not value.meta.is_mean_reduction]
    return _named(sorted({f"self.log({meta.name!r}, reduce_fx={meta.reduce_fx.__name__})" for meta in logged}))


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(name or "the module" for name in names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
