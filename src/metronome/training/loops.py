"""Lightning's loops, told where each epoch and each step starts."""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.utilities.exceptions import SIGTERMException

from metronome.training.counters import Counters
from metronome.training.order import BatchSampler, EvaluationSampler
from metronome.training.results import Results, metrics_kept
from metronome.training.seeds import generators_kept, seed_step
from metronome.training.step import ManualStepOptimization, StepOptimization
from metronome.units import InputError

if TYPE_CHECKING:
    from metronome.training.trainer import Trainer


class EvaluationLoop(_EvaluationLoop):
    """A validation or test, whose logged values weigh every sample the same over all devices."""

    trainer: "Trainer"
    _results: Results

    def __init__(self, trainer: "Trainer", stock: _EvaluationLoop) -> None:
        super().__init__(trainer, stock._trainer_fn, stock._stage, stock.verbose, stock.inference_mode)
        self._results = Results(trainer, training=False)

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, *args: Any) -> None:
        assert self._combined_loader is not None
        sampler = getattr(self._combined_loader.flattened[dataloader_idx], "batch_sampler", None)
        if not isinstance(sampler, EvaluationSampler) or sampler.share_size(batch_idx) > 0:
            super()._evaluation_step(batch, batch_idx, dataloader_idx, *args)
            return
        # One sample keeps the other devices company; it is counted where it belongs.
        with self._results.nothing_counted(), metrics_kept(self.trainer.lightning_module):
            super()._evaluation_step(batch, batch_idx, dataloader_idx, *args)

    def increment_progress_to_evaluation_end(self) -> None:
        # On a resume Lightning makes a loader's iterator here, in the middle of a training step, and that draws a
        # random number which the uninterrupted run did not draw there.
        with generators_kept():
            super().increment_progress_to_evaluation_end()


class EpochLoop(_TrainingEpochLoop):
    """One epoch: places the sampler, seeds every step, counts."""

    trainer: "Trainer"

    def __init__(self, trainer: "Trainer", min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.automatic_optimization = StepOptimization(trainer)
        self.manual_optimization = ManualStepOptimization(trainer)
        self.val_loop = EvaluationLoop(trainer, self.val_loop)
        self._results = Results(trainer, training=True)
        self.counters = Counters()

    def reset(self) -> None:
        with warnings.catch_warnings():
            if self.trainer.batch_sampler is not None:
                # Lightning cannot know that our sampler starts where the checkpoint stopped.
                warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            super().reset()

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        steps_taken = self.batch_progress.current.ready  # of this epoch; more than 0 only after a resume
        if steps_taken == 0:
            self.counters.epochs += 1
        sampler = self.trainer.batch_sampler
        if sampler is None:
            super().on_run_start(data_fetcher)
            return
        position = self.trainer.epoch, steps_taken
        if sampler.position != position:
            # An iterator was made when the loader was, or for the epoch before: make it anew from this position.
            sampler.position = position
            iter(data_fetcher)
        data_fetcher.fetched += steps_taken
        data_fetcher._start_profiler = self._on_before_fetch
        data_fetcher._stop_profiler = self._on_after_fetch

    def advance(self, data_fetcher: _DataFetcher) -> None:
        trainer = self.trainer
        # Before the batch is fetched, so that what is drawn while it is moved to the device is covered too.
        step, device = self.batch_progress.current.ready, trainer.strategy.root_device
        seed_step(trainer.seed, trainer.epoch, step, trainer.global_rank, device)
        super().advance(data_fetcher)

    def _broadcast_sigterm_tensor(self) -> None:
        # Lightning calls this before each step on several devices; see `SignalConnector`.
        connector = self.trainer._signal_connector
        told = torch.tensor(int(connector.told_to_stop), device=self.trainer.strategy.root_device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        if told.item():
            connector.received_sigterm = True
            raise SIGTERMException

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        # A run that `max_steps` ends in mid-epoch ends with a validation all the same: what it leaves is judged.
        ended = self.max_steps != -1 and self.global_step >= self.max_steps
        return super()._should_check_val_fx(data_fetcher) or (ended and self.trainer.enable_validation)

    def on_save_checkpoint(self) -> dict[str, Any]:
        return super().on_save_checkpoint() | {"counters": self.counters.state_dict()}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        if "counters" in state_dict:
            self.counters.load_state_dict(state_dict["counters"])


class FitLoop(_FitLoop):
    """All epochs: loads the training data anew where the batch size changes, and only there."""

    trainer: "Trainer"
    epoch_loop: EpochLoop

    def run(self) -> None:
        self.trainer.check_module()
        super().run()

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
        steps = self.epoch_loop.batch_progress
        cut_short = 0 < steps.current.ready < self.max_batches and not steps.is_last_batch
        for progress in state[f"{prefix}epoch_progress"].values():
            if cut_short and progress["processed"] == progress["started"]:
                # A budget or a callback has ended the run in mid-epoch, and Lightning counts the epoch as done:
                # resumed with a larger budget the run would never see the rest of its samples.
                progress["processed"] = progress["completed"] = progress["started"] - 1
        return state

    @property
    def _should_reload_train_dl(self) -> bool:
        sampler = self.trainer.batch_sampler
        if sampler is None:
            return super()._should_reload_train_dl
        return sampler.schedule.at(sampler.epoch) != sampler.schedule.at(self.trainer.epoch)

    def _iteration_based_training(self) -> bool:
        # Lightning resumes a run with `max_steps` as if it had no epochs, and then sees the wrong samples.
        return False
