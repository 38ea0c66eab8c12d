"""Lightning's Trainer, where a batch is what one optimizer step sees."""

from contextlib import suppress
from functools import partial
from typing import Any

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars

from metronome.training.batches.loaders import DataConnector
from metronome.training.batches.seeds import check_seed, seed_of_everything
from metronome.training.batches.shares import Shares
from metronome.training.checkpoints.background import wait_for_all
from metronome.training.checkpoints.files import CheckpointFiles, NotWritten, reason_not_written
from metronome.training.checkpoints.restoring import CheckpointConnector
from metronome.training.flags import check_flags, check_strategy, limits_of, plain
from metronome.training.guards.agreement import Agreement
from metronome.training.guards.between_steps import BetweenSteps
from metronome.training.guards.late_averaging import take_buffers_over
from metronome.training.guards.nonfinite import Watch
from metronome.training.guards.passes import PassesThatCanBeUndone, explained
from metronome.training.guards.signals import SignalConnector
from metronome.training.lightning_private import (
    checkpoint_connector,
    give_loaders_back,
    goes_on_from_a_checkpoint,
    init_trainer,
    logger_connector,
    put_connectors,
)
from metronome.training.logged.results import Results
from metronome.training.looks.first_look import FirstLook
from metronome.training.loops.epoch import EpochLoop
from metronome.training.loops.evaluation import EvaluationLoop
from metronome.training.loops.fit import FitLoop
from metronome.training.planning import Planner
from metronome.training.sharded import with_precision
from metronome.training.signature import with_lightnings_flags
from metronome.training.speed import Speed
from metronome.training.state import Counters, TrainingState
from metronome.training.step.manual import ManualStep
from metronome.training.step.step import Step, StepPoints
from metronome.units import BatchSchedule, Duration, Plan


class Trainer(L.Trainer):
    """Lightning's Trainer with one change: accumulation cuts a batch up instead of joining batches.

    Each batch that the training loader yields is this device's whole share of one optimizer step. So Lightning's batch
    index, `global_step`, `val_check_interval`, `log_every_n_steps`, `limit_train_batches`, schedulers with
    `interval: step` and checkpoint intervals all count steps, on every layout.

    Args:
        accumulate_grad_batches: micro-batches into which each device cuts its share of a batch; `auto`: 1, and twice as
            many whenever a step runs out of memory, which is then done again.
        budget: how long to train, as text with a unit (`20 epochs`, `500 steps`, `1e6 samples`, `90 min`),
            in place of `max_epochs`, `max_steps` and `max_time`.
        seed: from it, the epoch and the step come the order of the samples and every random number of a step. None:
            that of the last `seed_everything` before the fit, or 0.
        on_nonfinite: what to do about a step whose loss or gradient is not finite: `stop` the run with one line, `skip`
            the update (on a GPU this waits for the device in each step; to stop does not), or `ignore` it: nothing is
            looked at, for a module that mends its gradients itself.
        compile, channels_last, allow_tf32: for speed; what each changes of the numbers stands at `Speed`.
        flags: Lightning's own, with their names and meaning.

    Raises:
        InputError: for a flag or callback that cannot mean the right thing here.
    """

    fit_loop: FitLoop

    @with_lightnings_flags
    def __init__(
        self,
        *,
        accumulate_grad_batches: int | str = 1,
        budget: str | Duration | None = None,
        seed: int | None = None,
        on_nonfinite: str = "stop",
        compile: bool | str = False,
        channels_last: bool = False,
        allow_tf32: bool | None = None,
        **flags: Any,
    ) -> None:
        flags, accumulate_grad_batches, seed = plain(flags), plain(accumulate_grad_batches), plain(seed)
        check_flags(accumulate_grad_batches, budget, flags)
        self.speed = Speed(compile, channels_last, allow_tf32)
        auto = accumulate_grad_batches == "auto"
        accumulate = 1 if isinstance(accumulate_grad_batches, str) else accumulate_grad_batches
        state = TrainingState(seed_of_everything() if seed is None else check_seed(seed), accumulate, auto)
        state.follows_seed_everything, self.state_of_training = seed is None, state
        self.budget = None if budget is None else Duration.parse(budget)
        self._watch = Watch(self, self.state_of_training, agreement := Agreement(self), on_nonfinite)
        # Lightning's own switch, on for loaders that are not ours; DataConnector leaves ours alone.
        flags.setdefault("use_distributed_sampler", True)
        init_trainer(self, with_precision(flags) | limits_of(self.budget))
        check_strategy(self, self.state_of_training)
        with suppress(NotImplementedError):  # some strategies write in ways of their own
            if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
                self.strategy.checkpoint_io = CheckpointFiles()
        self._put_parts_in_place(agreement)

    def _put_parts_in_place(self, agreement: Agreement) -> None:
        state, signals, watch = self.state_of_training, SignalConnector(self), self._watch
        put_connectors(self, CheckpointConnector(self), DataConnector(self, state), signals)
        self._planner, shares = Planner(self, state, self.budget), Shares(self, state, agreement.of_each)
        between_steps = BetweenSteps(self, agreement, watch, signals)

        points = StepPoints(partial(explained, self), watch.allows if watch.looks else None)
        if state.auto_accumulate or watch.skips:
            careful = PassesThatCanBeUndone(self, state, shares, watch)
            points = StepPoints(careful, careful.may_update if watch.looks else None)
        results = Results(self, training=True)
        step, manual = Step(self, state, shares, results, points), ManualStep(self, state, shares, results, watch)
        stock = self.fit_loop.epoch_loop
        validation = EvaluationLoop(self, stock.val_loop, state, shares, between_steps)
        epoch_loop = EpochLoop(self, stock, state, step, manual, validation, between_steps)
        first_look = FirstLook(self, state, points)
        self.fit_loop = FitLoop(self, self.fit_loop, epoch_loop, self._planner, first_look)
        self.validate_loop = EvaluationLoop(self, self.validate_loop, state, shares, between_steps)
        self.test_loop = EvaluationLoop(self, self.test_loop, state, shares, between_steps)

    # ---- the plan -----------------------------------------------------------------------------------------

    @property
    def plan(self) -> Plan | None:
        """What the training will do, exactly; None where the training data have no length.

        Raises:
            InputError: if the flags do not fit the data (more micro-batches than samples, for instance).
        """
        return self._planner.plan

    def plan_for(self, num_samples: int, schedule: BatchSchedule, drop_last: bool = False) -> Plan:
        """The plan of a training with these data and this Trainer's flags."""
        return self._planner.of_data(num_samples, schedule, drop_last)

    def plan_of(self, loader: Any) -> Plan | None:
        """The plan of a training with this loader, if it says how many samples it has and how many it takes."""
        return self._planner.of_loader(loader)

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Steps in the whole training: the plan's exact total, or infinity where the budget gives none."""
        plan = self.plan
        if plan is None:
            return self._planner.steps_expected or super().estimated_stepping_batches
        return float("inf") if plan.total_steps is None else plan.total_steps

    # ---- how far it has come ------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self.state_of_training.seed

    @property
    def epoch(self) -> int:
        """The epoch being run, from 0; unlike `current_epoch`, right while a resumed run is being set up too."""
        return self.fit_loop.epoch_loop.epoch

    @property
    def counters(self) -> Counters:
        """Epochs begun, iterations on this device and samples over all devices so far."""
        return self.state_of_training.counters

    @property
    def accumulate(self) -> int:
        """Micro-batches of a device in a step of the first epoch, as many as have been found to be needed."""
        return self.state_of_training.accumulate

    @property
    def out_of_memory(self) -> list[dict[str, Any]]:
        """What was cut finer for want of memory, and in which step."""
        return self.state_of_training.out_of_memory

    @property
    def nonfinite(self) -> list[dict[str, Any]]:
        """The steps whose loss or gradient was not finite."""
        return self.state_of_training.nonfinite

    @property
    def watch(self) -> Watch:
        """What looks for them."""
        return self._watch

    # ---- what has been logged ------------------------------------------------------------------------------

    @property
    def logs_this_step(self) -> bool:
        """Whether the values of the step being made go to the loggers."""
        return logger_connector(self).should_update_logs

    @property
    def logged_step(self) -> int:
        """The step under which loggers file the values of the step being made."""
        return self.fit_loop.epoch_loop._batches_that_stepped

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """Values logged with `prog_bar=True`, as numbers: asking waits for the device."""
        return convert_tensors_to_scalars(logger_connector(self).progress_bar_metrics)  # pyright: ignore

    @property
    def step_metrics(self) -> dict[str, Any]:
        """Values that the step being made has logged with `prog_bar=True`, as they are."""
        return self.fit_loop.epoch_loop.results.metrics(on_step=True)["pbar"]

    # ---- what Lightning calls -----------------------------------------------------------------------------

    def save_checkpoint(self, filepath: Any, weights_only: bool | None = None, storage_options: Any = None) -> None:
        """Write a checkpoint, whole or not at all. All devices must call it together.

        Raises:
            NotWritten: if it cannot be written (the disk is full, say); on all devices.
            RunFailed: if a step was not finite.
        """
        if self.model is None:
            raise AttributeError("there is nothing to save before fit, validate, test or predict were called")
        self._watch.settle()
        wait_for_all(self)
        with self.profiler.profile("save_checkpoint"), self.fit_loop.epoch_loop.saving():  # pyright: ignore
            checkpoint, failure = checkpoint_connector(self).dump_checkpoint(weights_only), None
            try:
                self.strategy.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
            except (OSError, RuntimeError) as error:
                if (failure := reason_not_written(filepath, error)) is None:
                    raise
            failure = self.strategy.broadcast(failure)
        if failure:
            raise NotWritten(failure)

    def _run(self, model: L.LightningModule, *args: Any, **kwargs: Any) -> Any:
        self.speed.lay_out(model)
        give_loaders_back()  # another Trainer may have failed before this one
        try:
            return super()._run(model, *args, **kwargs)
        finally:
            give_loaders_back()

    def _run_stage(self) -> Any:
        self._watch.forget()
        self._watch.agreement.forget()
        if self.state_of_training.auto_accumulate:
            take_buffers_over(self.strategy.model)
        with self.speed.at_work(self), self.state_of_training.under_way():
            try:
                return super()._run_stage()
            finally:
                fit = self.fit_loop.epoch_loop
                for loop in (fit, fit.val_loop, self.validate_loop, self.test_loop):
                    loop._results.forget_metrics()

    def _run_sanity_check(self) -> None:
        # It would forget what was logged, and a run that goes on has shown that its validation works.
        if not goes_on_from_a_checkpoint(self):
            super()._run_sanity_check()
