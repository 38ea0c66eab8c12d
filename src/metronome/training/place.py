"""Which share of a batch a device takes, and of how many: as many as there are devices, unless some work on one share
together, each with a part of the network."""

from typing import Any

import lightning as L


def data_devices(trainer: L.Trainer) -> int:
    """Among how many a batch is shared out. Devices that are tensor-parallel to each other count as one."""
    found = getattr(trainer.strategy, "data_devices", None)
    return trainer.world_size if found is None else found


def data_rank(trainer: L.Trainer) -> int:
    """Which of the shares is this device's, from 0."""
    found = getattr(trainer.strategy, "data_rank", None)
    return trainer.global_rank if found is None else found


def data_group(trainer: L.Trainer) -> Any:
    """The processes with whose shares this one's makes up a batch; None for all processes."""
    return getattr(trainer.strategy, "data_group", None)


def one_of_each(trainer: L.Trainer, of_all: list[Any]) -> list[Any]:
    """Of what each process has, by rank, that of the first process of each share."""
    return of_all[:: trainer.world_size // data_devices(trainer)]
