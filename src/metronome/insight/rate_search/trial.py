"""Steps on trial, before the first step of a training: the real ones, of which nothing stays."""

import copy
from collections.abc import Generator
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from metronome.insight.layout.kept import Kept
from metronome.training import Trainer
from metronome.training.batches.beside import epoch_beside, generators_of
from metronome.training.batches.seeds import StepSeeds
from metronome.training.guards.passes import PassesThatCanBeUndone, explained
from metronome.training.guards.put_back.undo import Undo
from metronome.training.lightning_private import logger_connector
from metronome.training.step.step import StepPoints
from metronome.training.step.whole_loss import mean_over_devices
from metronome.units import InputError


class Trial:
    """Makes steps as the training would, with its batches, its cut, its clipping and its optimizer; left, all is as it
    was: weights, buffers, the module's plain attributes, the optimizer's state and rates, counters, logged values,
    random numbers and the order of the samples. Callbacks and loggers do not see these steps, and no schedule moves.

        with Trial(trainer) as trial:
            loss = trial.step()

    Enter it in `on_train_start` of a training that begins. The batches are those of the first epochs, in their order,
    of the size that the first epoch has. What a data set or loader written elsewhere keeps in objects of its own is not
    put back, but for the generator of a DataLoader and of its sampler.

    Args:
        trainer: of the training.

    Raises:
        InputError: for what cannot be put back (sharded weights), several loaders, manual optimization.
    """

    def __init__(self, trainer: Trainer) -> None:
        module, strategy = trainer.lightning_module, trainer.strategy
        if not module.automatic_optimization:
            raise InputError(f"{type(module).__name__} optimizes manually, and no step of it can be made on trial")
        if not isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
            raise InputError(
                f"{type(strategy).__name__} shards weights, and no step can be made on trial; use strategy=auto or ddp"
            )
        self.trainer, self.module, self._loop = trainer, module, trainer.fit_loop.epoch_loop
        self.optimizer: Any = trainer.optimizers[0]

    def __enter__(self) -> "Trial":
        trainer, loop, state = self.trainer, self._loop, self._loop.state
        device = trainer.strategy.root_device
        self._kept = Kept(self.module)
        self._undo = Undo(self.module, loop.results, state.counters, device)
        self._optimizer = _OptimizerAsNow(self.optimizer)
        self._gradients = [(p, p.grad) for p in self.module.parameters()]
        self._own = [(each, each.get_state()) for each in generators_of(trainer.train_dataloader)]
        self._books = [
            (state, copy.copy(vars(state)) | {"out_of_memory": list(state.out_of_memory)}),
            (state.counters, copy.copy(vars(state.counters))),
            (logger_connector(trainer), copy.copy(vars(logger_connector(trainer)))),
        ]
        self._progress = copy.deepcopy(loop.step.progress.state_dict())
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._scaler = None if scaler is None else (scaler, copy.deepcopy(scaler.state_dict()))
        self._seen: Any = trainer.callbacks, trainer.loggers, loop.step.points  # pyright: ignore
        trainer.callbacks, trainer.loggers = [], []  # pyright: ignore
        points = StepPoints(partial(explained, trainer))
        if state.auto_accumulate:
            points = StepPoints(PassesThatCanBeUndone(trainer, state, loop.step.shares, trainer.watch))
        loop.step.points = points
        loop.prepare()
        for parameter in self.module.parameters():
            parameter.grad = None
        self._seed = StepSeeds(state.seed, device, trainer.global_rank)
        self._batches = _endless(trainer)
        return self

    def step(self) -> float:
        """Make one. Returns the loss of the whole batch, over all devices, from before the update; it is waited for."""
        trainer, loop = self.trainer, self._loop
        epoch, index, batch = next(self._batches)
        loop.state.epoch, loop.state.step = epoch, index
        self._seed(epoch, index)
        batch = loop.step.ways.to_device(batch)
        loop.results.begin_batch(logger_connector(trainer), batch)
        outputs = loop.step(batch, index, (index,) if loop._takes_index else ())
        loop.results.end_batch()
        loss = outputs.get("loss")
        if loss is None:
            return float("nan")
        return float(mean_over_devices(trainer, loss) if trainer.world_size > 1 else loss)

    def begin_again(self) -> None:
        """The next step is the first one again: from the same weights, with the same batch and random numbers."""
        self._batches.close()
        self._put_weights_back()
        for generator, before in self._own:
            generator.set_state(before)
        self._batches = _endless(self.trainer)

    def _put_weights_back(self) -> None:
        self._kept.put_back()
        self._optimizer.put_back()

    def __exit__(self, *error: object) -> None:
        trainer, loop = self.trainer, self._loop
        self._batches.close()
        self._put_weights_back()
        self._undo()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for generator, before in self._own:
            generator.set_state(before)
        for owner, before in self._books:
            vars(owner).update(before)
        loop.step.progress.load_state_dict(self._progress)
        if self._scaler is not None:
            self._scaler[0].load_state_dict(self._scaler[1])
        trainer.callbacks, trainer.loggers, loop.step.points = self._seen  # pyright: ignore
        loop.prepare()


class _OptimizerAsNow:
    """An optimizer's state and the values of its groups, put back in place: others may hold on to the groups."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.state = [(p, {name: _copy(value) for name, value in s.items()}) for p, s in optimizer.state.items()]
        self.groups = [{k: _copy(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

    @torch.no_grad()
    def put_back(self) -> None:
        self.optimizer.state.clear()
        for parameter, values in self.state:
            self.optimizer.state[parameter] = {name: _copy(value) for name, value in values.items()}
        for group, before in zip(self.optimizer.param_groups, self.groups, strict=True):
            for name in [name for name in group if name != "params" and name not in before]:
                del group[name]
            for name, value in before.items():
                if isinstance(value, Tensor) and isinstance(group.get(name), Tensor):
                    group[name].copy_(value)
                else:
                    group[name] = _copy(value)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


# ---- batches ------------------------------------------------------------------------------------------------


def _endless(trainer: Trainer) -> Generator[tuple[int, int, Any], None, None]:
    """(epoch, index in it, batch) for ever, read by a loader that shares nothing with the training's."""
    epoch = 0
    while True:
        index = -1
        for index, batch in enumerate(epoch_beside(trainer, epoch)):
            yield epoch, index, batch
        if index < 0:
            raise InputError("there is no training batch; give data, and no trainer.limit_train_batches=0")
        epoch += 1
