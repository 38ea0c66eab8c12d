"""Validation and test: every sample weighs the same, and what does not fit into memory is cut up."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from metronome.training.batches.cut import join_outputs
from metronome.training.batches.order import EvaluationSampler
from metronome.training.batches.shares import Shares
from metronome.training.checkpoints.monitored import look_at_logged
from metronome.training.guards.between_steps import BetweenSteps
from metronome.training.guards.memory import free_memory, is_out_of_memory, one_line
from metronome.training.guards.put_back.undo import Undo
from metronome.training.lightning_private import (
    EvaluationLoopBase,
    call_callback_hooks,
    call_module_hook,
    logger_connector,
)
from metronome.training.logged.metrics import ListsSoFar, metrics_as_before
from metronome.training.logged.results import Results
from metronome.training.place import data_devices
from metronome.training.state import TrainingState
from metronome.training.step.schedules import judge
from metronome.training.step.weights import Weights
from metronome.units import InputError, RunFailed

log = logging.getLogger("metronome.training")


@torch.no_grad()
def fingerprint(module: nn.Module) -> list[Tensor]:
    """A number for each weight tensor, which stays on the device: the sum of its absolute values."""
    return [tensor.detach().abs().sum() for tensor in module.parameters()]


class EvaluationLoop(EvaluationLoopBase):
    """A validation or test, whose logged values weigh every sample the same over all devices.

    A batch of our own data modules is of the same samples on every layout; devices and accumulation cut it up, and what
    is logged in a step is that of the whole batch. What any other loader yields on a device is evaluated as it comes.

    A batch that does not fit into memory is evaluated in halves, and those after it too: on one device always, on
    several where `accumulate_grad_batches=auto` lets them agree on it.
    """

    _results: Results

    def __init__(
        self,
        trainer: L.Trainer,
        stock: EvaluationLoopBase,
        state: TrainingState,
        shares: Shares,
        between_steps: BetweenSteps,
    ) -> None:
        super().__init__(trainer, stock._trainer_fn, stock._stage, stock.verbose, stock.inference_mode)
        self.state, self.shares, self.between_steps = state, shares, between_steps
        self._results = Results(trainer, training=False)
        self.pieces = 1  # into how many more each batch is cut for want of memory
        self._cut: tuple[int, int] | None = None  # samples of this batch that count here, and pieces of it
        self.is_judged = False  # whether all that this evaluation finds has been logged
        self.weights_before: list[Tensor] = []  # a fingerprint of the weights, from before the validation
        self._lists: ListsSoFar = {}  # of the metrics' states, from batch to batch
        self._to_end: tuple[Any, bool] | None = None  # what the batch weighs, and whether it counts, if it was cut
        self._may_agree = False  # whether all devices have the same number of batches
        self._runs = 0  # one within another: BatchSizeFinder tries batches from a hook

    @property
    def counts(self) -> bool:
        """Whether the batch being evaluated counts here, and does not only keep other devices company."""
        return self._results.is_counting

    def run(self) -> Any:
        self._runs += 1
        self.between_steps.agreement.new_pace()  # what lies between two exchanges is another thing here
        try:
            return super().run()
        finally:
            self._runs -= 1
            self.between_steps.agreement.new_pace()

    def reset(self) -> None:
        self.is_judged, self._weights, self._lists = False, Weights(self.trainer), {}
        super().reset()

    def _on_evaluation_epoch_end(self) -> None:
        trainer = self.trainer
        hook = "on_test_epoch_end" if trainer.testing else "on_validation_epoch_end"
        call_callback_hooks(trainer, hook)
        call_module_hook(trainer, hook)
        self._results.share_epoch_values(at_a_meeting=True)
        logger_connector(trainer).on_epoch_end()

    def _store_dataloader_outputs(self) -> None:
        self._results.share_epoch_values(at_a_meeting=True)
        super()._store_dataloader_outputs()

    def _on_evaluation_end(self, *args: Any, **kwargs: Any) -> None:
        fit: Any = self.trainer.fit_loop
        if self.trainer.state.fn == TrainerFn.FITTING and not fit.has_looked_at_logged:
            look_at_logged(self.trainer, self._results, fit.said)
            fit.has_looked_at_logged = not self.trainer.sanity_checking
        judge(self.trainer)
        self.is_judged, self._lists = True, {}
        super()._on_evaluation_end(*args, **kwargs)

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, *args: Any) -> None:
        assert self._combined_loader is not None
        sampler = getattr(self._combined_loader.flattened[dataloader_idx], "batch_sampler", None)
        # Of other loaders the devices may have different numbers of batches.
        self._may_agree = self.trainer.world_size == 1 or isinstance(sampler, EvaluationSampler)
        if self._may_agree:
            self.between_steps.stop_if_asked(self._has_its_weights)
        is_ours = isinstance(sampler, EvaluationSampler)
        self._cut = (sampler.share_size(batch_idx), sampler.pieces(batch_idx)) if is_ours else None
        with self._cut_up_if_need_be():
            if self._cut is None or self._cut[0] > 0:
                super()._evaluation_step(batch, batch_idx, dataloader_idx, *args)
                return
            # One sample keeps the other devices company; it is counted where it belongs.
            with self._results.nothing_counted(), metrics_as_before(self.trainer.lightning_module):
                super()._evaluation_step(batch, batch_idx, dataloader_idx, *args)

    def _has_its_weights(self) -> bool:
        """Whether the module has the weights that it is trained with: a callback may validate an average of them."""
        now = fingerprint(self.trainer.lightning_module)
        return all(torch.equal(a, b) for a, b in zip(now, self.weights_before, strict=False))

    # ---- a batch that does not fit --------------------------------------------------------------------

    @property
    def _agrees(self) -> bool:
        """Whether several devices cut up their batches together."""
        return self.trainer.world_size > 1 and self.state.auto_accumulate and self._may_agree

    @contextmanager
    def _cut_up_if_need_be(self) -> Iterator[None]:
        """While it lasts, the strategy's step takes a batch in as many pieces as memory demands."""
        strategy, name = self.trainer.strategy, "test_step" if self.trainer.testing else "validation_step"
        whole = getattr(strategy, name)
        setattr(strategy, name, lambda batch, *arguments: self._step(whole, batch, arguments))
        try:
            yield
        finally:
            delattr(strategy, name)

    def _step(self, step: Callable[..., Any], batch: Any, arguments: Sequence[Any]) -> Any:
        while True:
            undo, reason = Undo(self.trainer.lightning_module, self._results, lists=self._lists), None
            try:
                output = self._step_in_pieces(step, batch, arguments)
            except Exception as error:
                if not is_out_of_memory(error) or self._runs > 1 or not self.state.is_under_way:
                    raise  # to those who try what fits
                output, reason = None, one_line(error)
            # The error is gone by now, and with it the frames that held on to memory.
            is_short = reason is not None
            if self._agrees:
                is_short = self.between_steps.agreement.any(is_short)
            if not is_short:
                if self._to_end is not None:  # now that no device will do it again
                    divisor, counts = self._to_end
                    self._results.end_step(batch, divisor if counts else 0, over_devices=self._cut is not None)
                    self._results.count_again(counts)
                return output
            undo()
            if self._to_end is not None:
                self._results.count_again(self._to_end[1])
            free_memory()
            self._halve(batch, reason or "on another device")

    def _step_in_pieces(self, step: Callable[..., Any], batch: Any, arguments: Sequence[Any]) -> Any:
        results, weights, self._to_end = self._results, self._weights, None
        samples, parts = self._cut or (None, 1)
        parts *= self.pieces
        if parts == 1 and (self._cut is None or data_devices(self.trainer) == 1):
            if weights.are_own:
                results.batch_size = weights.divisor(batch, None)
            return step(batch, *arguments)
        pieces, sizes = self.shares.pieces(batch, self.shares.count(batch) if samples is None else samples, parts)
        outputs, divisor = [], weights.divisor(batch, sum(sizes))
        divisors = [weights.divisor(piece, size) if size else 0 for piece, size in zip(pieces, sizes, strict=True)]
        counts = results.is_counting
        self._to_end = divisor, counts
        results.begin_step(is_cut=True)
        for piece, size, weight in zip(pieces, sizes, divisors, strict=True):
            results.begin_micro_batch(piece, weight, counts and size > 0)
            with nullcontext() if size else metrics_as_before(self.trainer.lightning_module):
                outputs.append(step(piece, *arguments))
        if all(isinstance(output, dict) for output in outputs):
            return join_outputs(outputs, sizes, divisors)
        return join_outputs([{"output": output} for output in outputs], sizes, divisors)["output"]

    def _halve(self, batch: Any, reason: str) -> None:
        trainer = self.trainer
        if trainer.world_size > 1 and not self._agrees:
            raise RunFailed(
                f"out of memory in an evaluation ({reason}); use a smaller data.eval_batch_size, or "
                "trainer.accumulate_grad_batches=auto, with which devices agree on smaller ones of a DataModule"
            )
        try:
            samples = self.shares.count(batch)
        except InputError as error:
            raise RunFailed(f"out of memory in an evaluation ({reason}); {error}") from error
        # On several devices the largest batch decides, so that all decide alike.
        parts = self.pieces * (self._cut[1] if self._cut is not None else 1)
        if not self.between_steps.agreement.any(parts < samples):
            raise RunFailed(f"out of memory in an evaluation with one sample at a time ({reason})")
        self.pieces *= 2
        found = {"step": trainer.global_step, "evaluation": self._stage.value, "pieces": 2 * parts}
        self.state.out_of_memory.append(found)
        log.warning("out of memory in an evaluation: its batches are now cut in %d; the result stays", 2 * parts)
