"""Where an epoch starts, and what a checkpoint keeps of it."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import lightning as L

from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.seeds import StepSeeds
from metronome.training.lightning_private import (
    DataFetcher,
    TrainingEpochLoopBase,
    logger_connector,
)
from metronome.training.logged.metrics import metrics_state
from metronome.training.logged.results import Results
from metronome.training.logged.saving import load_results, results_state
from metronome.training.loops.evaluation import EvaluationLoop
from metronome.training.loops.phases import Phase, has_reason_to_stop, phase_left, phase_of_lightning
from metronome.training.loops.starting import ForeignLoaders, begin_ours
from metronome.training.loops.step_limit import StepLimit
from metronome.training.state import TrainingState
from metronome.training.step.mid_step import MidStep
from metronome.training.step.schedules import check_judged


class GoesOn(StepLimit):
    """An epoch that goes on exactly where a checkpoint was written: at its step, and at what was left to do of that.

    Lightning infers from its counters where a checkpoint was written, and leaves out what was still to be done there
    (a validation, a line in the logs, a scheduler). Here a checkpoint says it, and resuming starts at that phase.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        stock: TrainingEpochLoopBase,
        state: TrainingState,
        results: Results,
        validation: EvaluationLoop,
    ) -> None:
        super().__init__(trainer, stock.min_steps, stock.max_steps)
        self.state, self._results, self.val_loop = state, results, validation
        self.foreign_loaders, self.phase = ForeignLoaders(trainer, state), Phase.MAKE
        self._mid_step = MidStep(trainer, results, state.counters, self.batch_progress, self.scheduler_progress)
        self._seed_fetch: StepSeeds | None = None  # for the batches of loaders that are not ours
        self._metrics_before: dict[str, Any] | None = None  # torchmetrics as they were before a validation
        self._order_before: dict[str, Any] | None = None  # that of the checkpoint, if it was written in mid-epoch

    @property
    def results(self) -> Results:
        """What the modules log in training."""
        return self._results

    @property
    def epoch(self) -> int:
        """The epoch being run, from 0; unlike `current_epoch`, right while a resumed run is being set up too."""
        return self.trainer.fit_loop.epoch_progress.current.processed  # pyright: ignore

    # ---- where it starts --------------------------------------------------------------------------------

    def update_restart_stage(self) -> None: ...  # Lightning's guess of where the checkpoint was written

    def reset(self) -> None:
        if not self.restarting:
            super().reset()
            return
        # A step that was begun and not done is done again.
        if self.phase is not Phase.LOG:
            for progress in (self.batch_progress.current, self.batch_progress.total):
                progress.reset_on_restart()
        self.scheduler_progress.reset_on_restart()
        self.automatic_optimization.optim_progress.reset_on_restart()
        self.val_loop.batch_progress.reset()

    def on_run_start(self, data_fetcher: DataFetcher) -> None:
        check_judged(self.trainer)
        steps_taken = self.batch_progress.current.ready  # of this epoch; more than 0 only after a resume
        sampler = batch_sampler(self.trainer)
        self.state.counters.begin_epoch(getattr(sampler, "mix", None), self.epoch, steps_taken)
        if steps_taken:
            # Values of the epoch's first step replace those before it; this is not the first.
            logger_connector(self.trainer)._first_loop_iter = False
        data_fetcher._start_profiler = self._on_before_fetch
        data_fetcher._stop_profiler = self._on_after_fetch
        if sampler is not None:
            order_before, self._order_before = self._order_before, None
            begin_ours(sampler, data_fetcher, (self.epoch, steps_taken), order_before)
        else:
            assert self._seed_fetch is not None
            is_over = steps_taken and self._num_ready_batches_reached()
            fetch = None if is_over else partial(self._seed_fetch, self.epoch)
            self.foreign_loaders.begin(data_fetcher, self.epoch, steps_taken, fetch)

    @property
    def _is_validation_done(self) -> bool:
        return True  # `run` makes up for it before it asks

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def saving(self) -> AbstractContextManager[None]:
        """Around a save: one in the middle of a step is one from before it."""
        return self._mid_step.left_out(self._progress[1]) if self.phase is Phase.MAKE else nullcontext()

    def on_save_checkpoint(self) -> dict[str, Any]:
        trainer, sampler = self.trainer, batch_sampler(self.trainer)
        phase = phase_left(self.phase, *self._progress, self.val_loop.is_judged)
        self._results.keep_latest(logger_connector(trainer))
        before = self._metrics_before if phase is Phase.VALIDATE else None  # the validation will be done again
        metrics = self._metrics_state() if before is None else before
        return super().on_save_checkpoint() | self.state.state_dict() | {
            "rest": phase.value,
            "results": results_state(trainer, self.results, metrics),
            "order": None if sampler is None else sampler.order,
            "generators": self.foreign_loaders.state_dict(trainer.fit_loop._combined_loader),
            "should_stop": has_reason_to_stop(trainer),
        }  # fmt: skip

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        trainer = self.trainer
        self.foreign_loaders.load_state_dict(state_dict)
        if "counters" not in state_dict:
            self.phase = phase_of_lightning(*self._progress)
            return
        self.phase = Phase(state_dict["rest"])
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
