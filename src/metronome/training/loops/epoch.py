"""One epoch, step by step: told where it starts, and where a checkpoint was written."""

import logging
from enum import StrEnum
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer

from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.order import BatchSampler
from metronome.training.batches.seeds import seed_step
from metronome.training.batches.shares import Shares
from metronome.training.guards.between_steps import BetweenSteps
from metronome.training.lightning_private import (
    DataFetcher,
    TrainingEpochLoopBase,
    call_module_hook,
    logger_connector,
)
from metronome.training.logged.metrics import metrics_state
from metronome.training.logged.results import Results
from metronome.training.logged.saving import load_results, results_state
from metronome.training.loops.evaluation import EvaluationLoop, fingerprint
from metronome.training.state import TrainingState
from metronome.training.step.closure import StepParts
from metronome.training.step.optimization import ManualStepOptimization, StepOptimization
from metronome.units import InputError

log = logging.getLogger("metronome.training")


class Rest(StrEnum):
    """What was still to be done of a step, or of its epoch, when a checkpoint was written."""

    NOTHING = "nothing"
    STEP = "step"  # written in `on_train_batch_end`: log the step, and all below
    VALIDATION = "validation"  # validate if it is due, and all below
    END = "end"  # written in `on_validation_end`: schedulers that wait for the validation
    EPOCH = "epoch"  # written in `on_train_epoch_end`: schedulers, and log the epoch


class EpochLoop(TrainingEpochLoopBase):
    """One epoch: places the sampler, seeds every step, counts, and resumes exactly where a checkpoint was written.

    Lightning infers from its counters where a checkpoint was written, and leaves out what was still to be done there
    (a validation, a line in the logs, a scheduler). Here a checkpoint says it, and the rest is done on resuming.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        stock: TrainingEpochLoopBase,
        state: TrainingState,
        shares: Shares,
        between_steps: BetweenSteps,
    ) -> None:
        super().__init__(trainer, stock.min_steps, stock.max_steps)
        self.state, self.between_steps = state, between_steps
        self._results = Results(trainer, training=True)
        parts = StepParts(trainer, state, shares, between_steps.watch, self._results)
        self.automatic_optimization, self.manual_optimization = StepOptimization(parts), ManualStepOptimization(parts)
        self.val_loop = EvaluationLoop(trainer, self.val_loop, state, shares, between_steps)
        self.rest = Rest.NOTHING
        self._metrics_before: dict[str, Any] | None = None  # torchmetrics as they were before a validation
        self._order_before: dict[str, Any] | None = None  # that of the checkpoint, if it was written in mid-epoch

    @property
    def results(self) -> Results:
        """What the modules log in training."""
        assert isinstance(self._results, Results)
        return self._results

    @property
    def epoch(self) -> int:
        """The epoch being run, from 0; unlike `current_epoch`, right while a resumed run is being set up too."""
        return self.trainer.fit_loop.epoch_progress.current.processed  # pyright: ignore

    # ---- where it starts --------------------------------------------------------------------------------

    def run(self, data_fetcher: DataFetcher) -> None:
        self.reset()
        self.on_run_start(data_fetcher)
        self.restarting = False  # from here on all is as if the run had never been interrupted
        self.on_iteration_done()
        self._finish_step()
        while not self.done:
            try:
                self.advance(data_fetcher)
                self.on_advance_end(data_fetcher)
            except StopIteration:
                break

    def update_restart_stage(self) -> None:
        """Lightning's guess of where the checkpoint was written; `rest` says it."""

    def reset(self) -> None:
        if not self.restarting:
            super().reset()
            return
        # A step that was begun and not done is done again.
        if self.rest is not Rest.STEP:
            for progress in (self.batch_progress.current, self.batch_progress.total):
                progress.reset_on_restart()
        self.scheduler_progress.reset_on_restart()
        self.automatic_optimization.optim_progress.reset_on_restart()
        self.val_loop.batch_progress.reset()

    def on_run_start(self, data_fetcher: DataFetcher) -> None:
        steps_taken = self.batch_progress.current.ready  # of this epoch; more than 0 only after a resume
        if steps_taken == 0:
            self.state.counters.epochs += 1
        else:
            # Values of the epoch's first step replace those before it; this is not the first.
            logger_connector(self.trainer)._first_loop_iter = False
        sampler = batch_sampler(self.trainer)
        if sampler is None:
            super().on_run_start(data_fetcher)
            if steps_taken and self.rest is not Rest.STEP:
                log.warning("resumed in mid-epoch with a loader that cannot be told where to start")
            return
        position = self.epoch, steps_taken
        if steps_taken and self._order_before is not None:
            self._check_order(sampler, self._order_before)
        self._order_before = None
        if sampler.position != position:
            # An iterator was made when the loader was, or for the epoch before: make it anew from this position.
            sampler.position = position
            iter(data_fetcher)
        data_fetcher.fetched += steps_taken
        data_fetcher._start_profiler = self._on_before_fetch
        data_fetcher._stop_profiler = self._on_after_fetch

    def _check_order(self, sampler: BatchSampler, before: dict[str, Any]) -> None:
        """Raises InputError if the samples that are left of an epoch are not those that the checkpoint left."""
        for name, value in sampler.order.items():
            if before[name] != value:
                raise InputError(
                    f"the checkpoint was written in the middle of an epoch with {name}={before[name]}, and this run "
                    f"has {name}={value}: which samples are left of it cannot be told; keep {name}={before[name]}, "
                    "or start from a checkpoint at the end of an epoch"
                )

    def _finish_step(self) -> None:
        """What the step before the checkpoint still had to do."""
        rest, connector = self.rest, logger_connector(self.trainer)
        if rest is Rest.STEP:
            connector.on_batch_end()
            self.batch_progress.increment_completed()
            connector.update_train_step_metrics()
        if rest in (Rest.STEP, Rest.VALIDATION, Rest.END):
            self._end_step(validate=rest is not Rest.END)

    # ---- a step ---------------------------------------------------------------------------------------------

    def advance(self, data_fetcher: DataFetcher) -> None:
        trainer, state = self.trainer, self.state
        self.between_steps.meet()
        self.val_loop.is_judged = False
        state.epoch, state.step = self.epoch, self.batch_progress.current.ready
        # Before the batch is fetched, so that what is drawn while it is moved to the device is covered too.
        seed_step(state.seed, state.epoch, state.step, trainer.global_rank, trainer.strategy.root_device)
        super().advance(data_fetcher)
        self.rest = Rest.VALIDATION
        self.between_steps.after_step()

    def on_advance_end(self, data_fetcher: DataFetcher) -> None:
        self._end_step()

    def _end_step(self, validate: bool = True) -> None:
        """Validate if it is due, and what follows from it."""
        trainer, connector = self.trainer, logger_connector(self.trainer)
        self.rest = Rest.VALIDATION
        if validate and self._should_check_val_fx(None):
            # Lightning takes its active loop, and so where values are logged, from these.
            trainer.validating, first_step = True, connector._first_loop_iter
            call_module_hook(trainer, "on_validation_model_zero_grad")
            self.between_steps.watch.settle()
            self._metrics_before = self._metrics_state()
            self.val_loop.weights_before = fingerprint(trainer.lightning_module)
            self.val_loop.run()
            self._metrics_before = None
            trainer.training, connector._first_loop_iter = True, first_step
        self.rest = Rest.END
        self.update_lr_schedulers("step", update_plateau_schedulers=True)
        self._batches_that_stepped += 1
        self._save_loggers_on_train_batch_end()
        self.rest = Rest.NOTHING

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning's way to tell all devices to stop; see `BetweenSteps.meet`."""

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        # A run that `max_steps` ends in mid-epoch ends with a validation all the same: what it leaves is judged.
        ended = self.max_steps != -1 and self.global_step >= self.max_steps
        return super()._should_check_val_fx(data_fetcher) or (ended and self.trainer.enable_validation)

    @property
    def _is_validation_done(self) -> bool:
        return True  # `run` makes up for it before it asks

    # ---- checkpoints ----------------------------------------------------------------------------------------

    @property
    def rest_now(self) -> Rest:
        """What a checkpoint written now leaves to be done."""
        steps, epochs = self._progress
        if epochs.processed > epochs.completed and self.rest is Rest.NOTHING:
            return Rest.EPOCH
        if steps.processed > steps.completed:
            return Rest.STEP
        return Rest.END if self.rest is Rest.VALIDATION and self.val_loop.is_judged else self.rest

    def on_save_checkpoint(self) -> dict[str, Any]:
        trainer, sampler, rest = self.trainer, batch_sampler(self.trainer), self.rest_now
        metrics = self._metrics_before if rest is Rest.VALIDATION else None  # the validation will be done again
        if metrics is None:
            metrics = self._metrics_state()
        return super().on_save_checkpoint() | self.state.state_dict() | {
            "rest": rest.value,
            "results": results_state(trainer, self.results, metrics),
            "order": None if sampler is None else sampler.order,
            "should_stop": _has_reason_to_stop(trainer),
        }  # fmt: skip

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        trainer = self.trainer
        if "counters" not in state_dict:
            self.rest = self._rest_of_lightning()
            return
        self.rest = Rest(state_dict["rest"])
        self.state.load_state_dict(state_dict)
        self._order_before = state_dict["order"]
        load_results(trainer, self.results, state_dict["results"])
        trainer.should_stop = state_dict["should_stop"]

    def _metrics_state(self) -> dict[str, Any]:
        """The module's torchmetrics, but for those that a validation has logged, which it empties at its end."""
        emptied = {id(metric.value) for metric in self.val_loop._results.values() if not metric.is_tensor}
        return metrics_state(self.trainer.lightning_module, emptied)

    @property
    def _progress(self) -> tuple[Any, Any]:
        """Lightning's counters of this epoch's steps, and of the epochs."""
        return self.batch_progress.current, self.trainer.fit_loop.epoch_progress.current

    def _rest_of_lightning(self) -> Rest:
        """The same for a checkpoint of Lightning's own Trainer, as far as its counters tell."""
        steps, epochs = self._progress
        if epochs.processed > epochs.completed:
            return Rest.EPOCH
        if steps.processed > steps.completed:
            return Rest.STEP
        return Rest.END if steps.completed and epochs.started > epochs.processed else Rest.NOTHING


def _has_reason_to_stop(trainer: L.Trainer) -> bool:
    """Whether early stopping has ended the run. A time that is up is no reason for the run that goes on."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore
    left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    time_is_up = any(seconds is not None and seconds <= 0 for seconds in left)
    return trainer.should_stop and not time_is_up and any(isinstance(c, EarlyStopping) for c in callbacks)
