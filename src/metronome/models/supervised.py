"""What every LightningModule of a network, an optimizer and a scheduler has in common."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from metronome.models.fused import choose_for_step, make_fused
from metronome.models.optimizers import check_options
from metronome.models.schedulers import Plateau
from metronome.training.checkpoints.monitored import settle
from metronome.training.checkpoints.restoring import set_rates
from metronome.units import InputError


class Supervised(L.LightningModule):
    """A network with its optimizer and its learning-rate schedule, which goes by steps.

    Args:
        network: maps a batch of inputs to outputs.
        optimizer: called with the parameters; a partial that lacks only them.
        scheduler: called with the optimizer; of `plan` (the run's `units.Plan`) and `total_steps` it is given those
            that it takes and that are not set. None keeps the rate constant. A `Plateau` is judged at each validation,
            in `on_validation_epoch_end`.
        compile: false. Networks are compiled with `Trainer(compile=...)`; what was configured before that has both.

    Raises:
        InputError: for what cannot make these.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise InputError(f"model.network must make an nn.Module, and it makes a {type(network).__name__}")
        if compile is not False:
            raise InputError(
                f"model.compile={compile} is no more; use trainer.compile={compile}, and model.compile=false"
            )
        for name, make in (("optimizer", optimizer), ("scheduler", scheduler)):
            if make is not None and not callable(make):
                raise InputError(
                    f"model.{name} is a {type(make).__name__} and cannot be called; its file needs _target_ (the "
                    "class) and _partial_: true"
                )
        self.network = network
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self._chooses_fused = self._rate_was_found = False

    @property
    def lr(self) -> float | None:
        """The learning rate that the optimizer is made with; None for its own default. Lightning's LearningRateFinder
        sets it."""
        return getattr(self.make_optimizer, "keywords", {}).get("lr")

    @lr.setter
    def lr(self, rate: float) -> None:
        self.make_optimizer = partial(self.make_optimizer, lr=rate)
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if isinstance(scheduler, OneCycleLR | CyclicLR):
                raise InputError(
                    f"{type(scheduler).__name__} has rates of its own, and one that is found for the optimizer is lost "
                    "on it; use scheduler=onecycle, which scales the optimizer's"
                )
            scheduler.base_lrs = [rate] * len(getattr(scheduler, "base_lrs", ()))
        self._rate_was_found = True

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def parts(self, batch: Any) -> tuple[Any, Tensor]:
        """The inputs and the targets of a batch. Raises InputError for one that is made of anything else."""
        kinds = [type(part).__name__ for part in batch] if isinstance(batch, tuple | list) else []
        if len(kinds) != 2 or not isinstance(batch[1], Tensor):
            raise InputError(
                f"{type(self).__name__} takes batches of inputs and a tensor of labels or targets, and this is a "
                f"{type(batch).__name__}{' of ' if kinds else ''}{', '.join(kinds)}"
            )
        return batch[0], batch[1]

    def configure_optimizers(self) -> Any:
        optimizer = _made("optimizer", self.make_optimizer, self.parameters())
        if isinstance(optimizer, Optimizer):
            check_options(type(optimizer), optimizer.defaults)
            # The strategy has put the parameters on their device; a Trainer calls the hook that looks at each update.
            looks = type(self).on_before_optimizer_step is Supervised.on_before_optimizer_step
            self._chooses_fused = looks and self._trainer is not None and make_fused(optimizer)
        if self.make_scheduler is None:
            return optimizer
        arguments = self._schedule_arguments(self.make_scheduler)
        scheduler = _made("scheduler", self.make_scheduler, optimizer, **arguments)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise InputError(
                "scheduler ReduceLROnPlateau has its patience in calls, whose number differs from run to run; use "
                "scheduler=plateau, where it is a duration"
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self._chooses_fused:
            choose_for_step(optimizer)

    def _schedule_arguments(self, make_scheduler: Callable[..., LRScheduler]) -> dict[str, Any]:
        wanted = inspect.signature(make_scheduler).parameters
        bound = getattr(make_scheduler, "keywords", {})
        arguments: dict[str, Any] = {}
        if "plan" in wanted and "plan" not in bound:
            plan = getattr(self.trainer, "plan", None)
            if plan is not None or wanted["plan"].default is inspect.Parameter.empty:
                arguments["plan"] = plan
        if "total_steps" in wanted and "total_steps" not in bound:
            arguments["total_steps"] = self.trainer.estimated_stepping_batches
        if None in arguments.values() or float("inf") in arguments.values():
            raise InputError(
                f"scheduler {_name(make_scheduler)} must know the number of steps in the training; give the budget in "
                "epochs, steps or samples, with a data set of known length, or use scheduler=constant"
            )
        if arguments.get("total_steps") == 0:
            raise InputError("the training has no step; give a budget and limit_train_batches of 1 or more")
        return arguments

    # ---- schedulers that look at a metric ----------------------------------------------------------------

    def _plateaus(self) -> list[Plateau]:
        """Those that the validation now running is to judge."""
        if self.trainer.state.fn != TrainerFn.FITTING or self.trainer.sanity_checking:
            return []
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return [scheduler for scheduler in schedulers if isinstance(scheduler, Plateau)]

    def on_train_start(self) -> None:
        trainer = self.trainer
        if self._rate_was_found:  # the finder has set it as it is, and not what the schedule makes of it
            self._rate_was_found = False
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, LambdaLR):
                    set_rates(config.scheduler)
        has_data = trainer.val_dataloaders is None or sum(trainer.num_val_batches) > 0  # None: not asked for yet
        for scheduler in self._plateaus():
            settle(scheduler, self)
        if self._plateaus() and not (trainer.enable_validation and has_data):
            raise InputError(
                "scheduler=plateau looks at a metric at each validation, and there is none; use another scheduler, or "
                "give validation data, and trainer.limit_val_batches above 0"
            )

    def on_validation_epoch_end(self) -> None:
        # Before `on_validation_end`, where checkpoints are written that take the validation for done.
        for scheduler in self._plateaus():
            scheduler.judge(self.trainer.callback_metrics)

    def on_validation_end(self) -> None:
        if any(scheduler.judged != scheduler.last_epoch for scheduler in self._plateaus()):
            raise InputError(
                f"{type(self).__name__}.on_validation_epoch_end must call super().on_validation_epoch_end() after it "
                "has logged; scheduler=plateau is judged there"
            )

    # ---- what a subclass writes --------------------------------------------------------------------------

    def loss_and_outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The batch's mean loss (a scalar), and the network's outputs."""
        raise NotImplementedError


def _made(kind: str, make: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a partial from the configuration makes. Raises InputError for values that it does not take."""
    try:
        return make(*arguments, **named)
    except InputError:
        raise
    except (IndexError, TypeError, ValueError) as error:
        if kind == "optimizer":  # whose own words may not name the option
            check_options(getattr(make, "func", make), getattr(make, "keywords", {}))
        raise InputError(f"{kind} {_name(make)}: {error}") from error


def _name(make: Callable[..., Any]) -> str:
    function = getattr(make, "func", make)
    return getattr(function, "__name__", type(function).__name__)


def has_targets(batch: Any) -> bool:
    """Whether a batch is inputs and targets; else it is inputs alone."""
    return isinstance(batch, tuple | list) and len(batch) == 2


def inputs_and_targets(batch: Any) -> tuple[Any, Any]:
    """The parts of a batch to predict, which may be inputs alone: then the targets are None."""
    if has_targets(batch):
        return batch[0], batch[1]
    return (batch[0] if isinstance(batch, tuple | list) and len(batch) == 1 else batch), None
