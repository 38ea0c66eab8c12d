"""When an instrument measures, and how what it finds comes to the loggers."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from metronome.training import Trainer
from metronome.training.precise import most_precise

# The group of what is watched: TensorBoard sorts groups by name and opens the first two, and so this one comes last.
GROUP = "watch"
# Of what is measured in a run, where its number of steps is known: more would cost time and show nothing.
MOST_POINTS = 100
# Else it is measured at one log point in so many.
_ONE_IN = 10


class Instrument(Callback):
    """Measures at some of the steps whose metrics are logged: at 100 of a run, evenly, at all where there are fewer.

    So in a long run it costs nothing that could be measured. Of a run whose number of steps is not known it is one log
    point in ten. Under a Trainer that is not ours, and without loggers, it does nothing.

    `is_due` says in a step whether it is one of them. A subclass that has an `on_train_batch_start` of its own calls
    this one's first.
    """

    def __init__(self) -> None:
        self.is_due = False
        self._every = 0  # steps; 0: never

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The plan is asked for on every device, since all may have to meet to load a foreign loader.
        plan = trainer.plan if isinstance(trainer, Trainer) else None
        self.is_due, self._every = False, 0
        every = int(trainer.log_every_n_steps)  # pyright: ignore
        if isinstance(trainer, Trainer) and trainer.loggers and every > 0:
            steps = None if plan is None else plan.total_steps
            self._every = every * (_ONE_IN if steps is None else max(1, ceil(steps / (every * MOST_POINTS))))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.is_due = self._every > 0 and (trainer.logged_step + 1) % self._every == 0  # pyright: ignore


def log_scalars(trainer: L.Trainer, scalars: Mapping[str, float]) -> None:
    """Hand numbers to all loggers, under the step being made."""
    assert isinstance(trainer, Trainer)
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars), step=trainer.logged_step)


def read(values: Sequence[Tensor]) -> list[float]:
    """Scalars that lie on a device, as numbers: one wait for all of them."""
    return torch.stack([value.detach().reshape(()) for value in values]).tolist()


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The Euclidean norm of each, on its device; in double precision, where it has it."""
    return list(torch._foreach_norm(list(tensors), 2.0, most_precise(tensors[0].device)))  # pyright: ignore


def numbered(name: str, values: Sequence[float], always: bool = False) -> dict[str, float]:
    """A value for each parameter group, `name/0`, `name/1`, ...; one name for a group that is alone."""
    if len(values) == 1 and not always:
        return {name: values[0]}
    return {f"{name}/{i}": value for i, value in enumerate(values)}


class StaysApart(Callback):
    """Values of parameter groups that are logged under one name while they are equal. Once they part, each has a name
    of its own, also where they meet again, and in a run that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.are_apart = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.are_apart = False

    def state_dict(self) -> dict[str, Any]:
        return {"numbered": self.are_apart}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.are_apart = state_dict["numbered"]

    def named(self, name: str, values: Sequence[float]) -> dict[str, float]:
        """One or more values, one for each group."""
        self.are_apart = self.are_apart or len(set(values)) > 1
        return numbered(name, values if self.are_apart else values[:1], always=self.are_apart)


def groups_of(trainer: L.Trainer) -> Iterable[dict[str, Any]]:
    """The parameter groups, over all optimizers."""
    return (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
