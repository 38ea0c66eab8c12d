"""Lightning's Trainer, where a batch is what one optimizer step sees."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.nn import SyncBatchNorm
from torch.utils.data import DataLoader, DistributedSampler

from metronome.training.batches.cut import count_samples, cut_batch
from metronome.training.batches.loaders import DataConnector
from metronome.training.batches.order import BatchSampler
from metronome.training.batches.seeds import check_seed
from metronome.training.checkpoints.files import CheckpointFiles, NotWritten
from metronome.training.checkpoints.restoring import CheckpointConnector
from metronome.training.flags import check_kinds
from metronome.training.guards.agreement import Meeting
from metronome.training.guards.late_averaging import take_buffers_over
from metronome.training.guards.nonfinite import Watch
from metronome.training.guards.signals import SignalConnector
from metronome.training.logged.results import Results
from metronome.training.loops.epoch import EpochLoop, FitLoop
from metronome.training.loops.evaluation import EvaluationLoop
from metronome.training.state import Counters
from metronome.units import BatchSchedule, Duration, InputError, Plan, RunFailed, accumulation_at, share_size


class BatchSizes(NamedTuple):
    """Samples of one batch: those of this device's share (0 if it only keeps company), and all of them."""

    share: int
    batch: int


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
        seed: from it, the epoch and the step come the order of the samples and every random number of a step.
        on_nonfinite: what to do about a step whose loss or gradient is not finite: `stop` the run with one line, or
            `skip` the update (on a GPU this waits for the device in each step; to stop does not).
        flags: Lightning's own, with their names and meaning.

    Raises:
        InputError: for a flag or callback that cannot mean the right thing here.
    """

    fit_loop: FitLoop

    def __init__(
        self,
        *,
        accumulate_grad_batches: int | str = 1,
        budget: str | Duration | None = None,
        seed: int = 0,
        on_nonfinite: str = "stop",
        **flags: Any,
    ) -> None:
        _check_flags(accumulate_grad_batches, budget, flags)
        self.auto_accumulate = accumulate_grad_batches == "auto"
        self.accumulate = 1 if isinstance(accumulate_grad_batches, str) else accumulate_grad_batches
        self.out_of_memory: list[dict[str, Any]] = []  # what was cut finer, and when
        self.nonfinite: list[dict[str, Any]] = []  # the steps whose loss or gradient was not finite
        self.watch = Watch(self, on_nonfinite)
        self.seed = check_seed(seed)
        self.budget = None if budget is None else Duration.parse(budget)
        # Lightning's own switch, on for loaders that are not ours; DataConnector leaves ours alone.
        flags.setdefault("use_distributed_sampler", True)
        super().__init__(**flags | _limits(self.budget))
        if isinstance(self.strategy, ModelParallelStrategy):
            raise InputError("ModelParallelStrategy shares one model out over devices; batches are shared out here")
        if (self.accumulate > 1 or self.auto_accumulate) and self.strategy.handles_gradient_accumulation:
            raise InputError(
                f"strategy {type(self.strategy).__name__} accumulates gradients by itself; "
                "use trainer.accumulate_grad_batches=1 with it"
            )
        if self.auto_accumulate and self.world_size > 1 and not isinstance(self.strategy, DDPStrategy):
            raise InputError(
                f"trainer.accumulate_grad_batches=auto on several devices needs the strategy ddp, not "
                f"{type(self.strategy).__name__}; give a number"
            )
        with suppress(NotImplementedError):  # some strategies write in ways of their own
            if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
                self.strategy.checkpoint_io = CheckpointFiles()
        self.meeting = Meeting(self)
        self._checkpoint_connector = CheckpointConnector(self)
        self._data_connector = DataConnector(self)
        self._signal_connector = SignalConnector(self)
        stock = self.fit_loop
        self.fit_loop = FitLoop(self, min_epochs=stock.min_epochs, max_epochs=stock.max_epochs)
        self.fit_loop.epoch_loop = EpochLoop(self, min_steps=stock.min_steps, max_steps=stock.max_steps)
        self.validate_loop = EvaluationLoop(self, self.validate_loop)
        self.test_loop = EvaluationLoop(self, self.test_loop)

    # ---- the plan, and how far it has come ---------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Epochs begun, iterations on this device and samples over all devices so far."""
        return self.fit_loop.epoch_loop.counters

    @property
    def epoch(self) -> int:
        """The epoch being run, from 0; unlike `current_epoch`, right while a resumed run is being set up too."""
        return self.fit_loop.epoch_progress.current.processed  # pyright: ignore

    @property
    def plan(self) -> Plan | None:
        """What the training will do, exactly; None where the training data have no length.

        Raises:
            InputError: if the flags do not fit the data (more micro-batches than samples, for instance).
        """
        datamodule: Any = self.datamodule  # pyright: ignore
        if _can_be_planned(datamodule):
            return self.plan_for(datamodule.num_samples, datamodule.schedule, datamodule.drop_last)
        if self.train_dataloader is None:
            self.fit_loop.setup_data()
        return self.plan_of(self.train_dataloader)

    def plan_for(self, num_samples: int, schedule: BatchSchedule, drop_last: bool = False) -> Plan:
        """The plan of a training with these data and this Trainer's flags."""
        accumulate = self.accumulate
        if self.auto_accumulate and schedule.accumulate:  # found for a larger batch, it may be more than this one has
            accumulate = min(accumulate, self._share(schedule))
        return Plan.make(
            num_samples,
            schedule,
            devices=self.world_size,
            accumulate_grad_batches=accumulate,
            drop_last=drop_last,
            limit_train_batches=self.limit_train_batches,
            budgets=self._budgets(),
        )

    def plan_of(self, loader: Any) -> Plan | None:
        """The plan of a training with this loader, if it says how many samples it has and how many it takes."""
        sampler = getattr(loader, "batch_sampler", None)
        if isinstance(sampler, BatchSampler):
            return self.plan_for(sampler.num_samples, sampler.schedule, sampler.drop_last)
        if not isinstance(loader, DataLoader) or loader.batch_size is None or not hasattr(loader.dataset, "__len__"):
            return None
        num_samples, batch_size = len(loader.dataset), loader.batch_size * self.world_size  # pyright: ignore
        # A sampler of the user's own may yield more or fewer samples than the data set has. On several devices
        # Lightning deals a loader's samples out when the training starts; before that it still reads them all.
        dealt_out = batch_size if isinstance(loader.sampler, DistributedSampler) else loader.batch_size
        if len(loader) != (num_samples // dealt_out if loader.drop_last else -(-num_samples // dealt_out)):
            return None
        return self.plan_for(num_samples, BatchSchedule(min(batch_size, num_samples)), loader.drop_last)

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Steps in the whole training: the plan's exact total, or infinity where the budget gives none."""
        plan = self.plan
        if plan is None:
            return super().estimated_stepping_batches
        return float("inf") if plan.total_steps is None else plan.total_steps

    @property
    def budget_needs_data(self) -> bool:
        """Whether the budget becomes a number of steps only once the data are known."""
        return self.budget is not None and _limits(self.budget).get("max_steps") == -1

    def steps_in_budget(self) -> int:
        plan = self.plan
        if plan is None or plan.total_steps is None:
            raise InputError(f"budget={self.budget} needs training data of a known length; give it in steps")
        return plan.total_steps

    def _budgets(self) -> list[Duration]:
        if self.budget is not None and not self.fast_dev_run:  # pyright: ignore
            return [self.budget]
        limits = [(self.max_epochs, "epochs"), (self.max_steps, "steps")]
        return [Duration.parse(f"{n} {unit}") for n, unit in limits if n is not None and n != -1]

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """Values logged with `prog_bar=True`, as numbers: asking waits for the device."""
        return convert_tensors_to_scalars(self._logger_connector.progress_bar_metrics)  # pyright: ignore

    # ---- between two steps -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait for what the devices know of the steps so far. Raises RunFailed if one was not finite."""
        self.watch.settle()

    def remember_memory(self, step: int, **found: Any) -> None:
        """Take down what was cut finer for want of memory: in this step, or in an evaluation after it."""
        self.out_of_memory.append({"step": step, **found})

    def save_checkpoint(self, filepath: Any, weights_only: bool | None = None, storage_options: Any = None) -> None:
        """Write a checkpoint, whole or not at all. All devices must call it together.

        Raises:
            NotWritten: if it cannot be written (the disk is full, say); on all devices.
            RunFailed: if a step was not finite.
        """
        if self.model is None:
            raise AttributeError("there is nothing to save before fit, validate, test or predict were called")
        self.settle()
        with self.profiler.profile("save_checkpoint"):  # pyright: ignore
            checkpoint, failure = self._checkpoint_connector.dump_checkpoint(weights_only), None
            try:
                self.strategy.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
            except (OSError, RuntimeError) as error:
                # PyTorch's writer says RuntimeError where the disk said OSError.
                reason = error if isinstance(error, OSError) else error.__context__
                if not isinstance(reason, OSError):
                    raise
                failure = f"checkpoint {filepath} could not be written ({reason.strerror or reason})"
            failure = self.strategy.broadcast(failure)
        if failure:
            raise NotWritten(f"{failure}; what was there before is whole")

    def _run_stage(self) -> Any:
        self.watch.forget()
        if self.auto_accumulate:
            take_buffers_over(self.strategy.model)
        return super()._run_stage()

    def _run_sanity_check(self) -> None:
        # It would forget what was logged, and a run that goes on has shown that its validation works.
        if not self.fit_loop._loaded_from_state_dict:
            super()._run_sanity_check()

    # ---- one batch -------------------------------------------------------------------------------------

    @property
    def batch_sampler(self) -> BatchSampler | None:
        """Our sampler, if the training loader has one."""
        loader = self.train_dataloader
        sampler = getattr(loader, "batch_sampler", None)
        return sampler if isinstance(sampler, BatchSampler) else None

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step in this epoch: it grows along with a growing batch, so that they stay as small."""
        sampler = self.batch_sampler
        if sampler is None:
            return self.accumulate
        size = sampler.schedule.at(sampler.epoch)
        return accumulation_at(self.accumulate, sampler.schedule, size, self.world_size)

    @property
    def step_results(self) -> Results:
        """What the modules log in training."""
        results = self.fit_loop.epoch_loop._results
        assert isinstance(results, Results)
        return results

    def count_samples(self, batch: Any) -> int:
        """Samples in a batch that a loader gave to this device. Raises InputError if they cannot be counted."""
        return self._hook("count_samples", count_samples)(batch)

    def batch_sizes(self, share: Any) -> BatchSizes:
        """Samples in this device's share and in the whole batch, given the share. All devices must call it together.

        Our sampler knows; the samples of any other loader's batch are counted, and summed over the devices.
        """
        sampler = self.batch_sampler
        if sampler is not None:
            step = self.fit_loop.epoch_loop.batch_idx
            return BatchSizes(sampler.share_size(step), sampler.batch_size(step))
        count = self._count(share)
        if self.world_size == 1:
            return BatchSizes(count, count)
        total = self.strategy.reduce(torch.tensor(count, device=self.strategy.root_device), reduce_op="sum")
        return BatchSizes(count, int(total))  # pyright: ignore

    def cut_finer(self, batch_samples: int, reason: str | None) -> None:
        """Twice as many micro-batches, from this batch on. Raises RunFailed if they hold one sample each already."""
        samples = share_size(batch_samples, self.world_size, 0)
        if self.accumulation >= samples:
            where = reason or "on another device"
            raise RunFailed(f"out of memory in step {self.global_step + 1:,} with one sample at a time ({where})")
        # Where accumulation grows along, at most as many as there are samples in the first batch: those of this follow.
        schedule = None if self.batch_sampler is None else self.batch_sampler.schedule
        most = samples if schedule is None or not schedule.accumulate else self._share(schedule)
        before = self.accumulation
        while self.accumulation == before:
            self.accumulate = min(2 * self.accumulate, most)

    def _share(self, schedule: BatchSchedule) -> int:
        """The most samples of a device in a batch of the first epoch."""
        return share_size(schedule.at(0), self.world_size, 0)

    def cut_batch(self, share: Any, sizes: Sequence[int]) -> list[Any]:
        """The micro-batches of a share."""
        return self._hook("cut_batch", cut_batch)(share, sizes)

    def _count(self, share: Any) -> int:
        try:
            return self.count_samples(share)
        except InputError:
            if self.world_size > 1 or self.accumulate > 1 or self.auto_accumulate:
                raise
            # Uncut and alone, the batch weighs 1 whatever is in it; only the counter needs a number.
            return getattr(self.train_dataloader, "batch_size", None) or 1

    def _hook(self, name: str, default: Any) -> Any:
        """The data module's (or module's) own way to count or cut batches of another structure, if it has one."""
        owners = (self.datamodule, self.lightning_module)  # pyright: ignore
        return next((getattr(owner, name) for owner in owners if hasattr(owner, name)), default)

    def check_validation_interval(self) -> None:
        """Raises InputError if an epoch is too short for `val_check_interval`, now or once the batch has grown."""
        interval = self.val_check_interval
        within_epoch = isinstance(interval, int) and self.check_val_every_n_epoch is not None
        if not within_epoch or not self.limit_val_batches or not _can_be_planned(self.datamodule):  # pyright: ignore
            return
        plan = self.plan
        assert plan is not None
        fewest = min(plan.series.epoch(epoch.epoch).steps for epoch in plan.per_epoch)
        if interval > fewest:
            raise InputError(
                f"trainer.val_check_interval={interval} is more than the {fewest} steps of an epoch; use at most "
                f"{fewest}, or trainer.check_val_every_n_epoch=null to count steps across epochs"
            )

    def check_schedulers(self) -> None:
        """Raises InputError if a scheduler from a checkpoint ends before the run does."""
        if not self.fit_loop._loaded_from_state_dict:
            return
        for config in self.lr_scheduler_configs:
            ends, steps = getattr(config.scheduler, "total_steps", None), self.estimated_stepping_batches
            if isinstance(ends, int) and config.interval == "step" and ends < steps < float("inf"):
                raise InputError(
                    f"the {type(config.scheduler).__name__} of the checkpoint ends after {ends:,} steps, and this run "
                    f"has {steps:,.0f}; keep the budget, or begin anew"
                )

    def check_module(self) -> None:
        """Refuse what the attached module brings along and this Trainer cannot do. Raises InputError."""
        model = self.lightning_module
        _check_callbacks(self.callbacks)  # pyright: ignore
        if not model.automatic_optimization and (self.accumulate > 1 or self.auto_accumulate):
            raise InputError(
                f"{type(model).__name__} optimizes manually, so its batches cannot be cut up for it; "
                f"use trainer.accumulate_grad_batches=1, not {'auto' if self.auto_accumulate else self.accumulate}"
            )
        if self.auto_accumulate and self.world_size > 1 and any(isinstance(m, SyncBatchNorm) for m in model.modules()):
            raise InputError(
                "SyncBatchNorm makes devices meet in the middle of a step, where one that is out of memory cannot tell;"
                " give trainer.accumulate_grad_batches a number, not auto"
            )


def _can_be_planned(datamodule: Any) -> bool:
    return all(hasattr(datamodule, name) for name in ("num_samples", "schedule", "drop_last"))


def _limits(budget: Duration | None) -> dict[str, Any]:
    """Lightning's flags that express a budget. One in samples, or in part of an epoch, waits for the data."""
    if budget is None:
        return {}
    if budget.unit == "percent":
        raise InputError(f"budget={budget} is a part of nothing; write for example budget='20 epochs'")
    if budget.unit == "seconds":
        if float(budget.value) >= timedelta.max.total_seconds():
            raise InputError(f"budget={budget} is longer than any clock; write for example budget='90 min'")
        return {"max_time": timedelta(seconds=float(budget.value)), "max_epochs": -1}
    if budget.unit == "epochs" and budget.value == int(budget.value):
        return {"max_epochs": int(budget.value)}
    steps = int(budget.value) if budget.unit == "steps" else -1
    return {"max_steps": steps, "max_epochs": -1}


def _check_flags(accumulate: object, budget: object, flags: dict[str, Any]) -> None:
    is_number = isinstance(accumulate, int) and not isinstance(accumulate, bool) and accumulate >= 1
    if not is_number and accumulate != "auto":
        raise InputError(
            f"trainer.accumulate_grad_batches={accumulate!r} is not a whole number of micro-batches from 1 up, nor auto"
        )
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if flags.get(name) is not None and flags[name] == 0:
            raise InputError(
                f"trainer.{name}=0 is no interval; to leave validation out use trainer.limit_val_batches=0"
            )
    check_kinds(flags)
    if flags.get("use_distributed_sampler"):
        raise InputError(
            "use_distributed_sampler=True would deal the samples out by device, so that batches change with the number "
            "of devices; leave it out: the batch sampler gives each device its share"
        )
    given = [f"{n}={flags[n]}" for n in ("max_epochs", "max_steps", "max_time") if flags.get(n) not in (None, -1)]
    if budget is not None and given:
        raise InputError(f"two budgets: budget={budget} and trainer.{given[0]}; give one of them")
    if budget is not None:
        for name in ("max_epochs", "max_steps", "max_time"):
            flags.pop(name, None)
    callbacks = flags.get("callbacks")
    _check_callbacks([callbacks] if isinstance(callbacks, Callback) else callbacks or [])


def _check_callbacks(callbacks: Iterable[Callback]) -> None:
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise InputError(
            "GradientAccumulationScheduler changes the batch by joining micro-batches, which never happens here; to "
            "grow the batch use data.batch_growth, to cut it up trainer.accumulate_grad_batches"
        )
