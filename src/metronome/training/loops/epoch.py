"""Lightning's loops, told where each epoch and each step starts, and where a checkpoint was written."""

import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer import call

from metronome.training.batches.order import BatchSampler
from metronome.training.batches.seeds import seed_step
from metronome.training.guards.full_batch import warn_of_mini_batches
from metronome.training.logged.results import Results
from metronome.training.logged.saving import load_results, metric_states, results_state
from metronome.training.loops.evaluation import EvaluationLoop, fingerprint
from metronome.training.state import Counters
from metronome.training.step.closure import ManualStepOptimization, StepOptimization
from metronome.units import InputError

if TYPE_CHECKING:
    from metronome.training.trainer import Trainer

log = logging.getLogger("metronome.training")


class Rest(StrEnum):
    """What was still to be done of a step, or of its epoch, when a checkpoint was written."""

    NOTHING = "nothing"
    STEP = "step"  # written in `on_train_batch_end`: log the step, and all below
    VALIDATION = "validation"  # validate if it is due, and all below
    END = "end"  # written in `on_validation_end`: schedulers that wait for the validation
    EPOCH = "epoch"  # written in `on_train_epoch_end`: schedulers, and log the epoch


class EpochLoop(_TrainingEpochLoop):
    """One epoch: places the sampler, seeds every step, counts, and resumes exactly where a checkpoint was written.

    Lightning infers from its counters where a checkpoint was written, and leaves out what was still to be done there
    (a validation, a line in the logs, a scheduler). Here a checkpoint says it, and the rest is done on resuming.
    """

    trainer: "Trainer"

    def __init__(self, trainer: "Trainer", min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.automatic_optimization = StepOptimization(trainer)
        self.manual_optimization = ManualStepOptimization(trainer)
        self.val_loop = EvaluationLoop(trainer, self.val_loop)
        self._results = Results(trainer, training=True)
        self.counters = Counters()
        self.rest = Rest.NOTHING
        self._metrics_before: dict[str, Any] | None = None  # torchmetrics as they were before a validation
        self._order_before: dict[str, Any] | None = None  # that of the checkpoint, if it was written in mid-epoch

    # ---- where it starts --------------------------------------------------------------------------------

    def run(self, data_fetcher: _DataFetcher) -> None:
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

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        steps_taken = self.batch_progress.current.ready  # of this epoch; more than 0 only after a resume
        if steps_taken == 0:
            self.counters.epochs += 1
        else:
            # Values of the epoch's first step replace those before it; this is not the first.
            self.trainer._logger_connector._first_loop_iter = False
        sampler = self.trainer.batch_sampler
        if sampler is None:
            super().on_run_start(data_fetcher)
            if steps_taken and self.rest is not Rest.STEP:
                log.warning("resumed in mid-epoch with a loader that cannot be told where to start")
            return
        position = self.trainer.epoch, steps_taken
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
        rest, connector = self.rest, self.trainer._logger_connector
        if rest is Rest.STEP:
            connector.on_batch_end()
            self.batch_progress.increment_completed()
            connector.update_train_step_metrics()
        if rest in (Rest.STEP, Rest.VALIDATION, Rest.END):
            self._end_step(validate=rest is not Rest.END)

    # ---- a step ---------------------------------------------------------------------------------------------

    def advance(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        trainer.meeting.before_step()
        self.val_loop.is_judged = False
        # Before the batch is fetched, so that what is drawn while it is moved to the device is covered too.
        step, device = self.batch_progress.current.ready, trainer.strategy.root_device
        seed_step(trainer.seed, trainer.epoch, step, trainer.global_rank, device)
        super().advance(data_fetcher)
        self.rest = Rest.VALIDATION
        for save in trainer.meeting.checkpoints:
            save.after_step(trainer)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        self._end_step()

    def _end_step(self, validate: bool = True) -> None:
        """Validate if it is due, and what follows from it."""
        trainer, connector = self.trainer, self.trainer._logger_connector
        self.rest = Rest.VALIDATION
        if validate and self._should_check_val_fx(None):
            # Lightning takes its active loop, and so where values are logged, from these.
            trainer.validating, first_step = True, connector._first_loop_iter
            call._call_lightning_module_hook(trainer, "on_validation_model_zero_grad")
            trainer.settle()
            self._metrics_before = metric_states(trainer.lightning_module, self.val_loop._results)
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
        """Lightning's way to tell all devices to stop; see `Trainer.meet`."""

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
        trainer, sampler, rest = self.trainer, self.trainer.batch_sampler, self.rest_now
        metrics = self._metrics_before if rest is Rest.VALIDATION else None  # the validation will be done again
        if metrics is None:
            metrics = metric_states(trainer.lightning_module, self.val_loop._results)
        return super().on_save_checkpoint() | {
            "rest": rest.value,
            "counters": self.counters.state_dict(),
            "results": results_state(trainer, metrics),
            "order": None if sampler is None else sampler.order,
            "accumulate_grad_batches": trainer.accumulate,
            "out_of_memory": list(trainer.out_of_memory),
            "nonfinite": list(trainer.nonfinite),
            "should_stop": _has_reason_to_stop(trainer),
        }

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        trainer = self.trainer
        if "counters" not in state_dict:
            self.rest = self._rest_of_lightning()
            return
        self.rest = Rest(state_dict["rest"])
        self.counters.load_state_dict(state_dict["counters"])
        self._order_before = state_dict["order"]
        load_results(trainer, state_dict["results"])
        trainer.out_of_memory, trainer.nonfinite = state_dict["out_of_memory"], state_dict["nonfinite"]
        trainer.should_stop = state_dict["should_stop"]
        if trainer.auto_accumulate:
            trainer.accumulate = state_dict["accumulate_grad_batches"]

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


class FitLoop(_FitLoop):
    """All epochs: loads the training data anew where the batch size changes, and only there."""

    trainer: "Trainer"
    epoch_loop: EpochLoop

    def run(self) -> None:
        self.trainer.check_module()
        self.setup_data()
        self.trainer.check_schedulers()
        self._check_end()
        warn_of_mini_batches(self.trainer)
        self.is_finishing = self.epoch_loop.rest is not Rest.NOTHING
        if self.epoch_loop.rest is Rest.EPOCH:
            self._finish_epoch()
        with self.trainer._signal_connector.waiting_for_the_step():
            super().run()
            self.trainer.settle()
            self.trainer.meeting.stop_if_told()

    def _check_end(self) -> None:
        """Raises InputError if a checkpoint lies beyond the end of this run."""
        if not self._loaded_from_state_dict or self.trainer.fast_dev_run:  # pyright: ignore
            return
        there = (self.epoch_progress.current.ready, self.trainer.global_step)
        ends = (self.max_epochs, self.epoch_loop.max_steps)
        for unit, done, end in zip(("epoch", "step"), there, ends, strict=True):
            if end not in (None, -1) and done > end:
                raise InputError(
                    f"the checkpoint is of {unit} {done:,}, and this run ends with {unit} {end:,}; let it end later, "
                    "with a larger budget, trainer.max_epochs or trainer.max_steps"
                )

    @property
    def skip(self) -> bool:
        # What the checkpoint left to be done of the last step or epoch is done, and the run brought to its end.
        return super().skip and not self.is_finishing

    @property
    def done(self) -> bool:
        return self.epoch_loop.rest is Rest.NOTHING and super().done

    def _finish_epoch(self) -> None:
        """What the epoch before the checkpoint still had to do: the end of Lightning's `on_advance_end`."""
        trainer, loop, connector = self.trainer, self.epoch_loop, self.trainer._logger_connector
        loop.rest = Rest.NOTHING
        if self._is_cut_short:
            if not super().done:
                return  # the budget has grown, and the epoch goes on
            self.epoch_progress.increment_processed()
        connector.epoch_end_reached()
        connector.on_epoch_end()
        if loop._num_ready_batches_reached():
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        loop._batches_that_stepped -= 1  # epoch values are logged at the epoch's last step
        connector.update_train_epoch_metrics()
        loop._batches_that_stepped += 1
        self.epoch_progress.increment_completed()
        self.restarting = False
        trainer.training = True

    def on_advance_end(self) -> None:
        self.restarting = False  # or schedulers that go by epochs are left out
        super().on_advance_end()

    def setup_data(self) -> None:
        if self._combined_loader is not None and not self._should_reload_train_dl:
            return
        self.trainer.check_validation_interval()
        super().setup_data()
        loaders = self._combined_loader.flattened if self._combined_loader is not None else []
        if len(loaders) > 1 and any(isinstance(getattr(x, "batch_sampler", None), BatchSampler) for x in loaders):
            raise InputError(
                "several training loaders at once cannot be counted as one batch; give one data set for all"
            )
        if isinstance(self._data_fetcher, _DataLoaderIterDataFetcher):
            raise InputError(
                "training_step(dataloader_iter) takes batches itself, so they cannot be cut and counted; "
                "write training_step(batch, batch_idx)"
            )
        if self.trainer.budget_needs_data and self._combined_loader is not None:
            self.epoch_loop.max_steps = self.trainer.steps_in_budget()

    def state_dict(self, destination: dict | None = None, prefix: str = "") -> dict:
        state = super().state_dict(destination, prefix)
        for progress in state[f"{prefix}epoch_progress"].values():
            if self._is_cut_short and progress["processed"] == progress["started"]:
                # A budget or a callback has ended the run in mid-epoch, and Lightning counts the epoch as done:
                # resumed with a larger budget the run would never see the rest of its samples.
                progress["processed"] = progress["completed"] = progress["started"] - 1
        return state

    @property
    def _is_cut_short(self) -> bool:
        """Whether the epoch ended, or is, before its last step."""
        steps = self.epoch_loop.batch_progress
        return 0 < steps.current.ready < self.max_batches and not steps.is_last_batch

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        for progress in (self.epoch_progress.current, self.epoch_progress.total):
            # An epoch whose start hooks were being called is begun again.
            progress.ready = progress.started  # pyright: ignore

    @property
    def _should_reload_train_dl(self) -> bool:
        sampler = self.trainer.batch_sampler
        if sampler is None:
            return super()._should_reload_train_dl
        return sampler.schedule.at(sampler.epoch) != sampler.schedule.at(self.trainer.epoch)

    def _iteration_based_training(self) -> bool:
        # Lightning resumes a run with `max_steps` as if it had no epochs, and then sees the wrong samples.
        return False


def _has_reason_to_stop(trainer: "Trainer") -> bool:
    """Whether early stopping has ended the run. A time that is up is no reason for the run that goes on."""
    callbacks: list[Any] = trainer.callbacks  # pyright: ignore
    left = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    time_is_up = any(seconds is not None and seconds <= 0 for seconds in left)
    return trainer.should_stop and not time_is_up and any(isinstance(c, EarlyStopping) for c in callbacks)
