"""A loss or a gradient that is not finite: found without waiting for the device, said in one line."""

import copy
import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from metronome.training.batches.loaders import batch_sampler
from metronome.training.guards.agreement import Agreement
from metronome.training.guards.arriving import is_far, send
from metronome.training.precise import most_precise
from metronome.training.sharded import ShardedStrategy
from metronome.training.sharded.norms import norm_of_all
from metronome.training.sharded.tensors import own_part
from metronome.training.state import TrainingState
from metronome.units import InputError, RunFailed

log = logging.getLogger("metronome.training")

_SAMPLES_LISTED, _STEPS_LOGGED, _STEPS_KEPT = 8, 10, 1_000
# A GPU may be so many steps behind; then it is waited for.
_STEPS_AHEAD = 64


@dataclass
class _Probe:
    """Loss and gradient norm (if there is one) of a step, on their way from the device."""

    values: Tensor
    arrived: Any  # a CUDA event, or None for values that are there
    facts: dict[str, Any]


class Watch:
    """Looks at the loss and the gradient of every step: on a CPU, and where a step may be left out, before the update.

    On a GPU the two numbers are copied while it works on, and looked at when they have arrived, a step or two later; no
    checkpoint is written before they have. With `skip` the update depends on them, so there the device is waited for.
    Under a gradient scaler (`16-mixed`) only the loss is looked at: the scaler skips its own overflows.

    Args:
        trainer: whose steps they are.
        state: of the training; what is found is added to its `nonfinite`.
        agreement: of its devices.
        on_nonfinite: `stop`, `skip` or `ignore`.

    Raises:
        InputError: for another word.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState, agreement: Agreement, on_nonfinite: str) -> None:
        if on_nonfinite not in ("stop", "skip", "ignore"):
            raise InputError(f"trainer.on_nonfinite={on_nonfinite} is not known; use stop, skip or ignore")
        self.trainer, self.state, self.agreement = trainer, state, agreement
        self.skips, self.looks = on_nonfinite == "skip", on_nonfinite != "ignore"
        self._on_the_way: deque[_Probe] = deque()
        self._found: str | None = None
        # For whoever wants the gradient's norm of a step: kept in it, on the device, where it is worked out.
        self.keeps_norm = False
        self.norm: Tensor | None = None

    @property
    def has_found(self) -> bool:
        """Whether a step that was not finite has been found after its update."""
        return self._found is not None

    def forget(self) -> None:
        """What was found and what is on its way belong to another run."""
        self._on_the_way.clear()
        self._found = None

    def allows(self, loss: Tensor) -> bool:
        """Look at the step whose gradients are ready: whether its update is to be made.

        Raises:
            RunFailed: if it is known already that it must not be, and the run is to stop.
        """
        is_sharded = isinstance(self.trainer.strategy, ShardedStrategy)
        if is_sharded and self.keeps_norm:
            self.norm = norm_of_all(self._whole_gradients())  # before anything that is not alike on all devices
        if not self.skips and not self._is_far(loss):
            if self._are_finite_here(loss):
                return True
            norm = self._gradient_norm() if self.trainer.world_size > 1 else None
            if norm is not None and (is_sharded or norm.isfinite()):
                # The gradient is the same on all devices, the loss each one's own (and where weights are sharded the
                # gradient too): the others hear of it between steps.
                self._found = self._found or self._take_down(
                    _Probe(torch.stack([loss.double(), norm.double()]), None, self._facts())
                )
                return True
        norm = self._gradient_norm()
        if self.keeps_norm and not is_sharded:
            self.norm = norm
        dtype = most_precise(loss.device)
        values = torch.stack([value.detach().to(dtype).reshape(()) for value in (loss, norm) if value is not None])
        if self.skips or not self._is_far(values):
            probe = _Probe(values.cpu(), None, {})
            is_finite = _is_finite(probe) or (math.isfinite(probe.values[0]) and _are_finite(self._gradients()))
            if self.skips:  # where a strategy shards gradients, each device sees its own
                is_finite = not self.agreement.any(not is_finite)
            if is_finite:
                return True
            probe.facts = self._facts()
            if self.skips:
                self._skip(probe)
                return False
            raise RunFailed(self._take_down(probe))
        self._on_the_way.append(_Probe(*self._send(values), self._facts()))
        return True

    @torch.no_grad()
    def _are_finite_here(self, loss: Tensor) -> bool:
        """Whether loss and gradient are finite, on a CPU."""
        if not math.isfinite(loss.item()):
            return False
        if self.keeps_norm and not isinstance(self.trainer.strategy, ShardedStrategy):
            # In the place of the look below: finite is what has a finite norm.
            self.norm = self._gradient_norm()
            if self.norm is None or math.isfinite(self.norm.item()):
                return True
        gradients, found = self._gradients(), torch.zeros(())
        try:
            # What gradient scalers look with: one call for all, which multiplies them by 1, and so changes no bit.
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, torch.ones(()))  # pyright: ignore
        except RuntimeError:  # sparse, complex, or a view of fewer numbers
            return _are_finite(gradients)
        return not found.item()

    _is_far, _send = staticmethod(is_far), staticmethod(send)

    def look_back(self) -> None:
        """See what has arrived, without waiting (unless the device is far behind)."""
        while self._on_the_way and self._found is None:
            probe = self._on_the_way[0]
            if len(self._on_the_way) > _STEPS_AHEAD:
                probe.arrived.synchronize()
            if not probe.arrived.query():
                return
            self._arrive()

    def settle(self) -> None:
        """Wait for all that is on its way. Raises RunFailed if a step was not finite, each time it is called.

        The update has been made by then, and what gets over a save that fails must not get over that. All devices must
        call it together, and fail together.
        """
        while self._on_the_way and self._found is None:
            self._on_the_way[0].arrived.synchronize()
            self._arrive()
        if self._found is not None:
            self._on_the_way.clear()
        if self.agreement.any(self._found is not None):
            raise RunFailed(self._found or "a step was not finite on another device")

    def _arrive(self) -> None:
        probe = self._on_the_way.popleft()
        if not _is_finite(probe):
            self._found = self._take_down(probe)

    def _gradients(self) -> list[Tensor]:
        """This device's part of those of what the optimizers train; none under a gradient scaler."""
        gradients = self._whole_gradients()
        return list(map(own_part, gradients)) if isinstance(self.trainer.strategy, ShardedStrategy) else gradients

    def _whole_gradients(self) -> list[Tensor]:
        trainer = self.trainer
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return []
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return [g.coalesce().values() if g.is_sparse else g for g in gradients]

    # ---- what there is to say ------------------------------------------------------------------------------

    @torch.no_grad()
    def _gradient_norm(self) -> Tensor | None:
        gradients = self._gradients()
        if not gradients:
            return None
        # In more precision than the gradient has: the squares of finite numbers may overflow in its own.
        norms = torch._foreach_norm(gradients, 2.0, most_precise(gradients[0].device))  # pyright: ignore
        return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))

    def _facts(self) -> dict[str, Any]:
        trainer, state = self.trainer, self.state
        rates = [group["lr"] for o in trainer.optimizers for group in o.param_groups if "lr" in group]
        rate = rates[0] if rates else None
        return {
            "step": trainer.global_step + 1,
            "epoch": state.epoch + 1,
            # One that is a tensor changes in place, and may lie on the device: it is read when somebody asks.
            "learning_rate": rate.detach().clone() if isinstance(rate, Tensor) else rate,
            # The sampler as it is now: when the values have arrived, it may be in the next epoch.
            "batch": (copy.copy(batch_sampler(trainer)), state.step),
        }

    def _entry(self, probe: _Probe) -> dict[str, Any]:
        """What result.json says: the epoch counted from 1, and all samples of the batch by their index."""
        loss, norm, *_ = [*probe.values.tolist(), None]
        sampler, batch = probe.facts["batch"]
        samples = None if sampler is None else sampler.samples(batch).tolist()
        facts = {name: value for name, value in probe.facts.items() if name != "batch"}
        if facts["learning_rate"] is not None:
            facts["learning_rate"] = float(facts["learning_rate"])
        if norm is not None and math.isfinite(norm) and isinstance(self.trainer.strategy, ShardedStrategy):
            norm = None  # it is of this device's part of the weights
        return facts | {"loss": loss, "gradient_norm": norm, "samples": samples}

    def _line(self, entry: dict[str, Any]) -> str:
        samples = entry["samples"]
        of = ""
        if samples is not None:
            more = f" and {len(samples) - _SAMPLES_LISTED} more" if len(samples) > _SAMPLES_LISTED else ""
            of = f", samples {', '.join(map(str, samples[:_SAMPLES_LISTED]))}{more}"
        norm = "" if entry["gradient_norm"] is None else f", gradient norm {entry['gradient_norm']:.4g}"
        rate = "" if entry["learning_rate"] is None else f", learning rate {entry['learning_rate']:.4g}"
        what = "the loss" if not math.isfinite(entry["loss"]) else "the gradient"
        return (
            f"{what} is not finite in step {entry['step']:,} (epoch {entry['epoch']:,}): loss {entry['loss']:.4g}"
            f"{norm}{rate}{of}"
        )

    def _take_down(self, probe: _Probe) -> str:
        """Keep what was found; returns the line for it."""
        entry = self._entry(probe)
        self.state.nonfinite.append(entry)
        return f"{self._line(entry)}; a lower rate may help, or trainer.on_nonfinite=skip"

    def _skip(self, probe: _Probe) -> None:
        entry, before = self._entry(probe), len(self.state.nonfinite)
        if before < _STEPS_KEPT:
            self.state.nonfinite.append(entry)
        if before < _STEPS_LOGGED:
            last = "; more will be counted in result.json only" if before == _STEPS_LOGGED - 1 else ""
            log.warning("left out: %s%s", self._line(entry), last)


def _are_finite(gradients: list[Tensor]) -> bool:
    values = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    return all(bool(value.isfinite().all()) for value in values)


def _is_finite(probe: _Probe) -> bool:
    return all(math.isfinite(value) for value in probe.values.tolist())
