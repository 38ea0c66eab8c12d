"""All epochs of a training."""

from collections.abc import Callable
from typing import Any

import lightning as L

from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.order import BatchSampler
from metronome.training.checkpoints.monitored import say_contradictions
from metronome.training.flags import check_module
from metronome.training.guards.full_batch import warn_of_mini_batches
from metronome.training.lightning_private import (
    DataLoaderIterDataFetcher,
    FitLoopBase,
    call_callback_hooks,
    call_module_hook,
    logger_connector,
)
from metronome.training.looks.first_look import FirstLook
from metronome.training.loops.epoch import EpochLoop
from metronome.training.loops.phases import Phase
from metronome.training.loops.without_length import check_interval, say_what_has_no_length
from metronome.training.planning import Planner
from metronome.units import InputError


class FitLoop(FitLoopBase):
    """All epochs: loads the training data anew where the batch size changes, and only there."""

    epoch_loop: EpochLoop

    def __init__(
        self, trainer: L.Trainer, stock: FitLoopBase, epoch_loop: EpochLoop, planner: Planner, first_look: FirstLook
    ) -> None:
        super().__init__(trainer, stock.min_epochs, stock.max_epochs)
        self.epoch_loop, self.planner, self.first_look = epoch_loop, planner, first_look
        self._put_generators_back: Callable[[], None] | None = None  # after an iterator was made
        self.said: set[str] = set()  # of what is monitored
        self.has_looked_at_logged = False
        self.is_finishing = False  # whether a checkpoint has left something to be done of its last step or epoch

    def run(self) -> None:
        trainer, between_steps = self.trainer, self.epoch_loop.between_steps
        check_module(trainer, self.epoch_loop.state)
        is_manual = not trainer.lightning_module.automatic_optimization
        self.epoch_loop.counts_batches = is_manual and self.planner.budget is not None
        self.setup_data()
        self.planner.check_schedulers()
        self._check_end()
        self.epoch_loop.prepare()
        self.first_look.begin()
        warn_of_mini_batches(trainer, self.planner.plan)
        say_contradictions(trainer, self.said)
        say_what_has_no_length(trainer, self.planner.budget)
        self.has_looked_at_logged = False
        self.is_finishing = self.epoch_loop.phase is not Phase.MAKE
        if self.epoch_loop.phase is Phase.LOG_EPOCH:
            self._finish_epoch()
        try:
            with between_steps.signals.waiting_for_the_step():
                super().run()
                between_steps.watch.settle()
                between_steps.stop_if_asked_by_now()
        except BaseException:
            if trainer.world_size == 1:  # of several, others may not come to where values are brought together
                self.epoch_loop.results.keep_latest(logger_connector(trainer))
            raise

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
        return self.epoch_loop.phase is Phase.MAKE and super().done

    def on_advance_end(self) -> None:
        """The end of an epoch: its hooks, then schedulers that go by epochs, and its values."""
        trainer = self.trainer
        self.restarting = False
        self.epoch_loop.results.keep_latest(logger_connector(trainer))
        logger_connector(trainer).epoch_end_reached()
        # Before the hooks: some look at them on the first device only, a progress bar for instance.
        self.epoch_loop.results.share_epoch_values(at_a_meeting=True)
        self.epoch_progress.increment_processed()
        # Those that look at a metric come after the module, which may log it in its own hook.
        call_callback_hooks(trainer, "on_train_epoch_end", monitoring_callbacks=False)
        call_module_hook(trainer, "on_train_epoch_end")
        self.epoch_loop.results.share_epoch_values(at_a_meeting=True)
        call_callback_hooks(trainer, "on_train_epoch_end", monitoring_callbacks=True)
        self._log_epoch()

    def _log_epoch(self) -> None:
        """Where a checkpoint written in `on_train_epoch_end` goes on."""
        loop, connector = self.epoch_loop, logger_connector(self.trainer)
        connector.on_epoch_end()
        if loop._num_ready_batches_reached():
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        loop._batches_that_stepped -= 1  # epoch values are logged at the epoch's last step
        connector.update_train_epoch_metrics()
        loop._batches_that_stepped += 1
        self.epoch_progress.increment_completed()

    def _finish_epoch(self) -> None:
        """What the epoch before the checkpoint still had to do."""
        self.epoch_loop.phase = Phase.MAKE
        if self._is_cut_short:
            if not super().done:
                return  # the budget has grown, and the epoch goes on
            self.epoch_progress.increment_processed()
        logger_connector(self.trainer).epoch_end_reached()
        self._log_epoch()
        self.restarting = False
        self.trainer.training = True

    def setup_data(self) -> None:
        if self._combined_loader is not None and not self._should_reload_train_dl:
            return
        self.planner.check_validation_interval()
        trainer: Any = self.trainer
        validated = None if self._combined_loader is None else getattr(trainer, "_last_val_time", None)
        self._put_generators_back = None
        with check_interval(trainer):
            super().setup_data()
        if validated is not None and self.epoch_loop.state.is_under_way:
            # To load data anew is no validation, and where it is done each epoch there would be none.
            trainer._last_val_time = validated
        if self._put_generators_back is not None:
            self._put_generators_back()
        loaders = self._combined_loader.flattened if self._combined_loader is not None else []
        if len(loaders) > 1 and any(isinstance(getattr(x, "batch_sampler", None), BatchSampler) for x in loaders):
            raise InputError(
                "several training loaders at once cannot be counted as one batch; give one data set for all"
            )
        if isinstance(self._data_fetcher, DataLoaderIterDataFetcher):
            raise InputError(
                "training_step(dataloader_iter) takes batches itself, so they cannot be cut and counted; "
                "write training_step(batch, batch_idx)"
            )
        if self.planner.needs_data and self._combined_loader is not None:
            self.epoch_loop.samples_to_see = self.planner.samples_to_count
            if self.epoch_loop.samples_to_see is None:
                self.epoch_loop.max_steps = self.planner.steps_in_budget()

    def _load_combined_loader_states(self) -> None:
        super()._load_combined_loader_states()
        if batch_sampler(self.trainer) is None and self._combined_loader is not None:  # an iterator is made next
            foreign = self.epoch_loop.foreign_loaders
            self._put_generators_back = foreign.set_up(self._combined_loader, self.epoch_loop.epoch)

    def on_save_checkpoint(self) -> dict[str, Any]:
        state, loaders = super().on_save_checkpoint(), self.epoch_loop.foreign_loaders
        states = loaders.states_to_save(self._data_fetcher)
        return state if states is None else state | {"combined_loader": states}

    def teardown(self) -> None:
        # With it goes the last iterator of the loader, whose workers end where nobody holds it any more. Held by the
        # Trainer until that is collected, they live as long, and then 5 s more each.
        self.epoch_loop.batches = None
        super().teardown()

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
        self.epoch_loop.foreign_loaders.restored = state_dict.get("combined_loader", [])
        for progress in (self.epoch_progress.current, self.epoch_progress.total):
            # An epoch whose start hooks were being called is begun again.
            progress.ready = progress.started  # pyright: ignore

    @property
    def _should_reload_train_dl(self) -> bool:
        sampler = batch_sampler(self.trainer)
        if sampler is None:
            return super()._should_reload_train_dl
        return sampler.schedule.at(sampler.epoch) != sampler.schedule.at(self.epoch_loop.epoch)

    def _iteration_based_training(self) -> bool:
        # Lightning resumes a run with `max_steps` as if it had no epochs, and then sees the wrong samples.
        return False
