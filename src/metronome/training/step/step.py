"""One step: every micro-batch of this device's share forward and backward, then one update.

The loader yields this device's whole share of a batch. It is cut into micro-batches, and each loss is weighed by

    weight = (samples in the micro-batch) * devices / (samples in the whole batch),

so that the gradient, which the strategy averages over devices, is that of the mean loss over the batch: the last,
smaller batch included, and shares of different sizes too. A module whose loss is a mean over something else than
samples says so (`weights.py`).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metronome.training.batches.cut import join_outputs
from metronome.training.batches.shares import Shares
from metronome.training.logged.metrics import metrics_as_before
from metronome.training.logged.results import Results
from metronome.training.place import data_devices
from metronome.training.state import TrainingState
from metronome.training.step.hooks import Hooks
from metronome.training.step.ways import NOTHING, Ways
from metronome.training.step.weights import Number, Weight, Weights
from metronome.training.step.whole_loss import looks_at_its_loss, mean_over_devices
from metronome.units import InputError, RunFailed


@dataclass(slots=True)
class CutBatch:
    """This device's share of one batch, cut into micro-batches.

    Attributes:
        share: as the loader gave it.
        share_samples: samples in it that count; 0 where the one sample in it only keeps other devices company.
        batch_samples: samples in the whole batch, over all devices.
        largest: samples in the largest share, where the sampler does not know it.
        index: of the batch in its epoch.
        sizes, micro_batches, weights: the pieces, the samples that count in each, and what it weighs. As many on all
            devices; one of size 0 only keeps the others company.
        arguments: what `training_step` takes besides the batch.
    """

    share: Any
    share_samples: int
    batch_samples: int
    largest: int
    index: int
    arguments: Sequence[Any] = ()
    sizes: list[int] = field(default_factory=list)
    micro_batches: Sequence[Any] = ()
    weights: list[Weight] = field(default_factory=list)


@dataclass(slots=True)
class Passes:
    """What the micro-batches of a batch gave: their weighed loss, and all else that `training_step` returned."""

    loss: Tensor | None = None
    extras: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    divisors: list[Number] = field(default_factory=list)


@dataclass
class StepPoints:
    """Where a guard may come in; None, at no cost, where it is off.

    Attributes:
        around_passes: makes the passes over a batch, as often as it takes.
        before_update: told the batch's loss when the gradients are there; whether the update may be made.
    """

    around_passes: "Callable[[Step, CutBatch], Passes] | None" = None
    before_update: Callable[[Tensor], bool] | None = None


class Step:
    """The step of a training whose optimization is automatic.

    Args:
        trainer: whose step it is.
        state: of the training.
        shares: how its batches are counted and cut.
        results: where its module logs.
        points: where guards come in.
    """

    def __init__(
        self, trainer: L.Trainer, state: TrainingState, shares: Shares, results: Results, points: StepPoints
    ) -> None:
        self.trainer, self.state, self.shares, self.results, self.points = trainer, state, shares, results, points

    def prepare(self, hooks: Hooks, optimizer: Optimizer, progress: Any) -> None:
        """Look up, once a fit, what each step would have to look up."""
        self.hooks, self.ways, self.optimizer = hooks, Ways(self.trainer, hooks), optimizer
        self.devices, self.progress, self.weights = data_devices(self.trainer), progress, Weights(self.trainer)
        self._loss_is_read = self.devices > 1 and (looks_at_its_loss(optimizer) or hooks.is_read("on_train_batch_end"))
        self.scales = getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def __call__(self, share: Any, batch_idx: int, arguments: Sequence[Any]) -> dict[str, Any]:
        """Make the step. Returns what `training_step` did, for the whole batch; nothing where it gave no loss."""
        samples = self.shares.sizes(share)
        batch = CutBatch(share, samples.share, samples.batch, samples.largest, batch_idx, arguments)
        self.cut(batch)
        self.state.counters.samples += batch.batch_samples
        outputs: dict[str, Any] = {}
        evaluations = 0

        def evaluate() -> Tensor | None:
            """Loss and gradient of the batch. An optimizer may ask several times, at weights that it tries (L-BFGS)."""
            nonlocal evaluations
            around = self.points.around_passes
            # Some optimizers call this without gradients.
            with NOTHING if torch.is_grad_enabled() else torch.enable_grad():
                passes = self.passes(batch) if around is None else around(self, batch)
            loss = self._joined(batch, passes)
            outputs.clear()
            if loss is None:
                return None
            outputs.update(loss=loss, **_joined_extras(passes))
            evaluations += 1
            if evaluations == 1 and self.points.before_update is not None and not self.points.before_update(loss):
                for parameter in self.ways.module.parameters():
                    parameter.grad = None  # every optimizer leaves these alone, with their state
                return None if self.scales else loss  # a scaler wants gradients, or to be told that there are none
            return loss

        self.progress.step.increment_ready()
        self.ways.update(self.trainer.current_epoch, batch_idx, self.optimizer, evaluate)
        self.progress.step.increment_completed()
        return outputs

    def cut(self, batch: CutBatch) -> None:
        """Cut the share as finely as this epoch's steps are."""
        parts = self.shares.micro_batches(batch.batch_samples, batch.largest)
        batch.micro_batches, batch.sizes = self.shares.pieces(batch.share, batch.share_samples, parts)
        batch.weights = self.weights(batch.micro_batches, batch.sizes, batch.batch_samples)

    def passes(self, batch: CutBatch) -> Passes:
        """Every micro-batch forward and backward, once."""
        ways, results, passes, last = self.ways, self.results, Passes(), len(batch.sizes) - 1
        results.begin_step(is_cut=last > 0 or self.devices > 1)
        pieces = zip(batch.micro_batches, batch.sizes, batch.weights, strict=True)
        for i, (micro_batch, samples, weight) in enumerate(pieces):
            results.begin_micro_batch(micro_batch, weight.divisor, samples > 0)
            # Gradients need to meet the other devices' only once, in the last backward pass.
            with ways.gradients_meet(i == last and not self.state.auto_accumulate):
                with NOTHING if samples > 0 else metrics_as_before(ways.module):
                    output = ways.training_step(micro_batch, *batch.arguments)
                if i == 0:
                    hook_later = self._zero_grad(batch.index, is_cut=last > 0)
                if i == last and hook_later is not None:
                    hook_later()
                loss, extra = _parts(output)
                if loss is None:
                    self._check_may_leave_out()
                    continue
                weighed = self.weights.weighed(loss, weight)
                # A copy: the module's own may be changed by its hooks, or written over by the next replay of a graph.
                share_loss = weighed.detach().clone() if weighed is loss else weighed.detach()
                ways.backward(weighed, self.optimizer)
            passes.loss = share_loss if passes.loss is None else passes.loss + share_loss
            passes.extras.append(extra)
            passes.sizes.append(samples)
            passes.divisors.append(weight.divisor)
            self.state.counters.iterations += 1
        return passes

    def _zero_grad(self, batch_idx: int, is_cut: bool) -> Callable[[], None] | None:
        """Lightning's order: `on_before_zero_grad` comes after `training_step`, the whole batch's: a hook that moves a
        teacher there would show another to the micro-batches after the first. Returns it, to be called then, if any."""
        progress, hook_later = self.progress.zero_grad, None
        progress.increment_ready()
        if is_cut and self.hooks.has("on_before_zero_grad"):
            hook_later = self._with_gradients_as_now(lambda: self.hooks("on_before_zero_grad", self.optimizer))
        else:
            self.hooks("on_before_zero_grad", self.optimizer)
        progress.increment_started()
        self.ways.zero_grad(self.trainer.current_epoch, batch_idx, self.optimizer)
        progress.increment_completed()
        return hook_later

    def _with_gradients_as_now(self, call: Callable[[], None]) -> Callable[[], None]:
        """What makes this call later on, with the gradients that are there now."""
        parameters = list(self.ways.module.parameters())
        kept = [parameter.grad for parameter in parameters]

        def later() -> None:
            now = [parameter.grad for parameter in parameters]
            _put_gradients(parameters, kept)
            call()
            _put_gradients(parameters, now)

        return later

    def _joined(self, batch: CutBatch, passes: Passes) -> Tensor | None:
        """The loss of the whole batch, and its logged values."""
        self.results.end_step(batch.share, sum(weight.divisor for weight in batch.weights))
        if passes.loss is not None and self._loss_is_read:
            # The mean over the batch, not over this device's share: an optimizer that looks at the loss (L-BFGS) must
            # see the same number on every device, or they part; and so must a hook.
            return mean_over_devices(self.trainer, passes.loss)
        return passes.loss

    def _check_may_leave_out(self) -> None:
        if self.devices > 1:
            raise RunFailed(
                "training_step returned None: on several devices no step can be left out; return a loss of 0"
            )
        warnings.warn("`training_step` returned `None`: the step has no gradient", stacklevel=2)


def _put_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _joined_extras(passes: Passes) -> dict[str, Any]:
    return join_outputs(passes.extras, passes.sizes, passes.divisors) if passes.extras[-1] else {}


def _parts(output: Any) -> tuple[Tensor | None, dict[str, Any]]:
    """The loss in what `training_step` returned, and all else. Raises InputError if there is none where it must be."""
    if output is None or isinstance(output, Tensor):
        return output, {}
    if not isinstance(output, Mapping):
        raise InputError(
            f"training_step must return a loss, a dict with a loss, or None, not a {type(output).__name__}"
        )
    if output.get("loss") is None:
        raise InputError("training_step returned a dict without a loss; give it under the key 'loss'")
    return output["loss"], {name: value for name, value in output.items() if name != "loss"}
