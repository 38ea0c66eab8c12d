"""The plan of a training: what its data and a Trainer's flags come to in steps."""

from typing import Any

import lightning as L
from torch.utils.data import DataLoader, DistributedSampler

from metronome.training.batches.order import BatchSampler
from metronome.training.batches.shares import largest_share
from metronome.training.flags import limits_of
from metronome.training.lightning_private import goes_on_from_a_checkpoint
from metronome.training.state import TrainingState
from metronome.units import BatchSchedule, Duration, InputError, Plan
from metronome.units.mixtures.mix import Mix


class Planner:
    """Plans trainings with the flags of a Trainer.

    Args:
        trainer: whose flags they are.
        state: of the training, whose accumulation may have grown.
        budget: how long to train, where it takes the place of `max_epochs`, `max_steps` and `max_time`.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState, budget: Duration | None) -> None:
        self.trainer, self.state, self.budget = trainer, state, budget

    @property
    def plan(self) -> Plan | None:
        """The plan of the Trainer's own training; None where the training data have no length.

        Raises:
            InputError: if the flags do not fit the data (more micro-batches than samples, for instance).
        """
        trainer = self.trainer
        datamodule: Any = trainer.datamodule  # pyright: ignore
        if _can_be_planned(datamodule):
            mix = getattr(datamodule, "mix", None)
            return self.of_data(datamodule.num_samples, datamodule.schedule, datamodule.drop_last, mix)
        if getattr(datamodule, "is_stream", False):
            return None
        if trainer.train_dataloader is None:
            trainer.fit_loop.setup_data()
        return self.of_loader(trainer.train_dataloader)

    def of_data(
        self, num_samples: int, schedule: BatchSchedule, drop_last: bool = False, mix: Mix | None = None
    ) -> Plan:
        """The plan of a training with these data, of which there may be a mixture."""
        trainer, accumulate = self.trainer, self.state.accumulate
        if self.state.auto_accumulate and schedule.accumulate:
            # Found for a larger batch, it may be more than this one has.
            accumulate = min(accumulate, largest_share(schedule, trainer.world_size))
        return Plan.make(
            num_samples,
            schedule,
            devices=trainer.world_size,
            accumulate_grad_batches=accumulate,
            drop_last=drop_last,
            limit_train_batches=trainer.limit_train_batches,
            budgets=self._budgets(),
            mix=mix,
        )

    def of_loader(self, loader: Any) -> Plan | None:
        """The plan of a training with this loader, if it says how many samples it has and how many it takes."""
        sampler = getattr(loader, "batch_sampler", None)
        if isinstance(sampler, BatchSampler):
            mix = getattr(sampler, "mix", None)
            return self.of_data(sampler.num_samples, sampler.schedule, sampler.drop_last, mix)
        if not isinstance(loader, DataLoader) or loader.batch_size is None or not hasattr(loader.dataset, "__len__"):
            return None
        if not hasattr(loader.sampler, "__len__"):
            return None
        num_samples, batch_size = len(loader.dataset), loader.batch_size * self.trainer.world_size  # pyright: ignore
        # A sampler of the user's own may yield more or fewer samples than the data set has. On several devices
        # Lightning deals a loader's samples out when the training starts; before that it still reads them all.
        dealt_out = batch_size if isinstance(loader.sampler, DistributedSampler) else loader.batch_size
        if len(loader) != (num_samples // dealt_out if loader.drop_last else -(-num_samples // dealt_out)):
            return None
        return self.of_data(num_samples, BatchSchedule(min(batch_size, num_samples)), loader.drop_last)

    @property
    def needs_data(self) -> bool:
        """Whether the budget becomes a number of steps only once the data are known."""
        return self.budget is not None and limits_of(self.budget).get("max_steps") == -1

    def steps_in_budget(self) -> int:
        """Raises InputError where the data have no length."""
        plan = self.plan
        if plan is None or plan.total_steps is None:
            raise InputError(f"budget={self.budget} needs training data of a known length; give it in steps or samples")
        return plan.total_steps

    @property
    def samples_to_count(self) -> int | None:
        """Where the training ends by the samples that it has seen: a budget in samples of data without a length."""
        budget = self.budget
        if budget is None or budget.unit != "samples" or self.plan is not None:
            return None
        return int(budget.value)

    @property
    def steps_expected(self) -> int | None:
        """Steps in such a budget where every batch is full; None where nothing tells how large that is."""
        samples, datamodule = self.samples_to_count, getattr(self.trainer, "datamodule", None)
        if samples is None:
            return None
        size: Any = getattr(datamodule, "batch_size", None) if getattr(datamodule, "is_stream", False) else None
        if size is None and isinstance(each := getattr(self.trainer.train_dataloader, "batch_size", None), int):
            size = each * self.trainer.world_size
        return None if size is None else -(-samples // int(size))

    def _budgets(self) -> list[Duration]:
        trainer = self.trainer
        if self.budget is not None and not trainer.fast_dev_run:  # pyright: ignore
            return [self.budget]
        limits = [(trainer.max_epochs, "epochs"), (trainer.max_steps, "steps")]
        return [Duration.parse(f"{n} {unit}") for n, unit in limits if n is not None and n != -1]

    # ---- what does not go with the plan ---------------------------------------------------------------

    def check_validation_interval(self) -> None:
        """Raises InputError if an epoch is too short for `val_check_interval`, now or once the batch has grown."""
        trainer = self.trainer
        interval: Any = getattr(trainer, "val_check_interval", None)  # a time is kept elsewhere
        within_epoch = isinstance(interval, int) and trainer.check_val_every_n_epoch is not None
        if not within_epoch or not trainer.limit_val_batches or not _can_be_planned(trainer.datamodule):  # pyright: ignore
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
        trainer = self.trainer
        if not goes_on_from_a_checkpoint(trainer):
            return
        for config in trainer.lr_scheduler_configs:
            ends, steps = getattr(config.scheduler, "total_steps", None), trainer.estimated_stepping_batches
            if isinstance(ends, int) and config.interval == "step" and ends < steps < float("inf"):
                raise InputError(
                    f"the {type(config.scheduler).__name__} of the checkpoint ends after {ends:,} steps, and this run "
                    f"has {steps:,.0f}; keep the budget, or begin anew"
                )


def _can_be_planned(datamodule: Any) -> bool:
    if getattr(datamodule, "is_stream", False):
        return False
    return all(hasattr(datamodule, name) for name in ("num_samples", "schedule", "drop_last"))
