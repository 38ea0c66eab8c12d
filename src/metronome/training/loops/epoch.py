"""One epoch, step by step: each step, and the phases of it."""

import warnings
from collections import OrderedDict
from functools import partial
from typing import Any

import lightning as L

from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.seeds import StepSeeds
from metronome.training.guards.between_steps import BetweenSteps
from metronome.training.lightning_private import (
    DataFetcher,
    TrainingEpochLoopBase,
    call_module_hook,
    call_strategy_hook,
    logger_connector,
)
from metronome.training.loops.evaluation import EvaluationLoop, fingerprint
from metronome.training.loops.fetching import batches_of
from metronome.training.loops.going_on import GoesOn
from metronome.training.loops.phases import OF_A_STEP, Phase
from metronome.training.place import data_rank
from metronome.training.state import TrainingState
from metronome.training.step.hooks import Hooks, remember_signature
from metronome.training.step.manual import ManualStep
from metronome.training.step.schedules import Schedules
from metronome.training.step.step import Step


class EpochLoop(GoesOn):
    """One epoch: seeds every step, makes it, logs, validates and counts. Where it starts is a matter of `GoesOn`."""

    def __init__(
        self,
        trainer: L.Trainer,
        stock: TrainingEpochLoopBase,
        state: TrainingState,
        step: Step,
        manual: ManualStep,
        validation: EvaluationLoop,
        between_steps: BetweenSteps,
    ) -> None:
        super().__init__(trainer, stock, state, step.results, validation)
        self.step, self.manual_optimization, self.between_steps = step, manual, between_steps
        self._phases = list(zip(OF_A_STEP, (self._make, self._log, self._validate, self._close), strict=True))
        self.around_batches: Any = None  # for a clock: makes of an epoch's batches others with `next`

    def run(self, data_fetcher: DataFetcher) -> None:
        self.reset()
        self._may_validate = self.trainer.enable_validation
        self.on_run_start(data_fetcher)
        self.restarting = False  # from here on all is as if the run had never been interrupted
        self.on_iteration_done()
        is_profiled, agreement = self._hooks.is_profiled, self.between_steps.agreement
        batches = batches_of(data_fetcher, is_profiled, agreement, partial(self.foreign_loaders.remember, data_fetcher))
        self.batches: Any = batches if self.around_batches is None else self.around_batches(batches)
        if self.phase in OF_A_STEP[1:]:
            self._go_through(self.phase)  # what the checkpoint left to be done of its step
        while not self.done:
            try:
                self._go_through(Phase.MAKE)
            except StopIteration:
                break

    def _go_through(self, first: Phase) -> None:
        """The phases of a step from this one on."""
        for phase, do in self._phases[OF_A_STEP.index(first) :]:
            self.phase = phase
            do()
        self.phase = Phase.MAKE

    # ---- a step ---------------------------------------------------------------------------------------------

    def _make(self) -> None:
        """Meet, seed, fetch; the hooks before; the step itself; schedulers; the hooks after it."""
        state, progress, batch_idx = self.state, self.batch_progress, self.batch_progress.current.ready
        self.between_steps.meet()
        self.val_loop.is_judged = False
        state.epoch, state.step = self.epoch, batch_idx
        self._mid_step.counted = state.counters.iterations, state.counters.samples
        if self._mid_step.remembers:
            self._mid_step.remember(state.epoch, batch_idx)
        if self._seed_fetch is not None:
            self._seed_fetch(state.epoch, batch_idx)
        batch, progress.is_last_batch = self.batches.next()
        self._seed(state.epoch, batch_idx)
        if self.step.ways.are_old():
            self.prepare()
        batch = self.step.ways.to_device(batch)
        progress.increment_ready()
        self._results.begin_batch(self._connector, batch)
        outputs: Any = None
        if batch is None:
            warnings.warn("the training loader yielded None: no step is made of it", stacklevel=2)
        elif self._begins(batch, batch_idx):
            progress.increment_started()
            outputs = self._optimize(batch, batch_idx)
        else:  # the module has ended the epoch
            progress.increment_by(0, is_last_batch=True)
            progress.increment_processed()
            self._step_schedulers()
            raise StopIteration
        progress.increment_processed()
        self._step_schedulers()
        self._hooks("on_train_batch_end", outputs, batch, batch_idx)

    def _log(self) -> None:
        """Hand the step's values to the loggers when it is time, then save what is to be saved after the step."""
        trainer: Any = self.trainer
        self._results.end_batch()
        self.batch_progress.increment_completed()
        is_due = (every := trainer.log_every_n_steps) and (self._batches_that_stepped + 1) % every == 0
        if is_due or trainer.should_stop or trainer.fast_dev_run:
            self._results.keep_latest(self._connector)
            self._connector.update_train_step_metrics()
        self.phase = Phase.VALIDATE
        self.between_steps.after_step()

    def _validate(self) -> None:
        """Validate if it is due."""
        if not self._should_check_val_fx(None):
            return
        trainer, connector = self.trainer, self._connector
        # Lightning takes its active loop, and so where values are logged, from these.
        self._results.keep_latest(connector)
        trainer.validating, first_step = True, connector._first_loop_iter
        call_module_hook(trainer, "on_validation_model_zero_grad")
        self.between_steps.watch.settle()
        self._metrics_before = self._metrics_state()
        self.val_loop.weights_before = fingerprint(trainer.lightning_module)
        self.val_loop.run()
        self._metrics_before = None
        trainer.training, connector._first_loop_iter = True, first_step

    def _close(self) -> None:
        """Schedulers that wait for a validation; then the step is over."""
        if self._schedules.wait_for_validation:
            self.update_lr_schedulers("step", update_plateau_schedulers=True)
        self._batches_that_stepped += 1
        self._save_loggers_on_train_batch_end()

    # ---- parts of it ----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Look up, once a fit, what each step would have to look up."""
        trainer = self.trainer
        self._connector, self._hooks = logger_connector(trainer), Hooks(trainer)
        seed, device = self.state.seed, trainer.strategy.root_device
        self._seed = StepSeeds(seed, device, data_rank(trainer))
        # Our own loaders draw nothing; other samplers may rely on equal generators in all processes.
        self._seed_fetch = StepSeeds(seed, device, None) if batch_sampler(trainer) is None else None
        remember_signature(trainer.lightning_module.training_step)
        self._takes_index = "batch_idx" in self._build_kwargs(OrderedDict(), None, 0)
        optimizer: Any = trainer.optimizers[0] if trainer.optimizers else None
        self.step.prepare(self._hooks, optimizer, self.automatic_optimization.optim_progress.optimizer)
        self.manual_optimization.prepare()
        self._schedules = Schedules(trainer, self._hooks)
        self._mid_step.prepare()

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        if not self._may_validate:
            return False
        due = super()._should_check_val_fx(data_fetcher)
        if not due and self.max_steps != -1 and self.global_step >= self.max_steps:
            due = self.is_judged_at_its_end()
        by_clock = self.trainer._val_check_time_interval is not None  # pyright: ignore
        return self.between_steps.agreement.any(due) if by_clock else due  # each device has a clock of its own

    def _begins(self, batch: Any, batch_idx: int) -> bool:
        """The hooks before a step; whether it is made, and does not end the epoch."""
        response = self._hooks("on_train_batch_start", batch, batch_idx)
        if self._hooks.has("on_train_batch_start") and self.step.ways.are_old():
            self.prepare()
        if not self.step.ways.is_plain:
            call_strategy_hook(self.trainer, "on_train_batch_start", batch, batch_idx)
        return response != -1

    def _optimize(self, batch: Any, batch_idx: int) -> Any:
        if self._hooks.is_profiled:
            with self.trainer.profiler.profile("run_training_batch"):  # pyright: ignore
                return self._step_or_manual(batch, batch_idx)
        return self._step_or_manual(batch, batch_idx)

    def _step_or_manual(self, batch: Any, batch_idx: int) -> Any:
        passes_back = not self.automatic_optimization._skip_backward  # in StochasticWeightAveraging's last epoch not
        if self.trainer.lightning_module.automatic_optimization and passes_back:
            return self.step(batch, batch_idx, (batch_idx,) if self._takes_index else ())
        return self.manual_optimization.run(self._build_kwargs(OrderedDict(), batch, batch_idx))

    def _step_schedulers(self) -> None:
        """Those that go by steps, and at the end of an epoch those that go by epochs; but not those by a metric."""
        if not self._schedules.step(self.scheduler_progress):
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
