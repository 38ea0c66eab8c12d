"""An epoch's batches, read beside a training, which goes on with its own as if nothing had been read."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader

from metronome.training.batches.loaders import batch_sampler
from metronome.training.batches.seeds import StepSeeds
from metronome.units import BatchSchedule, InputError


def epoch_beside(trainer: Any, epoch: int, whole: bool = False) -> Iterable[Any]:
    """This device's share of each batch of an epoch, in its order, all of the size that the first has.

    For a loader that is not ours the generators of torch, numpy and Python are seeded; what it keeps besides, and the
    generator that it may have of its own (`generators_of`), is the caller's to put back.

    Args:
        trainer: with its training loader in place.
        epoch: whose order; random numbers of augmented samples are those of it too.
        whole: all samples of each batch, and not only the share; only of a loader of ours.

    Raises:
        InputError: where several loaders are read at once.
    """
    loader, ours = trainer.train_dataloader, batch_sampler(trainer)
    if isinstance(loader, list | tuple | dict):
        raise InputError("there are several training loaders at once, and their batches cannot be read on trial")
    if ours is None:
        StepSeeds(trainer.state_of_training.seed, trainer.strategy.root_device, None)(epoch, 0)
    if not isinstance(loader, DataLoader):
        return loader
    # The training has its iterator by now, and a second one of the same loader would begin that anew where its workers
    # persist.
    alike = copy.copy(loader)
    alike.__dict__["_iterator"] = None
    if ours is not None:
        sampler = copy.copy(ours)
        sampler.schedule, sampler.position = BatchSchedule(ours.schedule.at(0)), (epoch, 0)
        if whole:
            sampler.devices, sampler.rank = 1, 0
        alike.__dict__["batch_sampler"] = sampler
    return alike


def generators_of(loader: Any) -> list[torch.Generator]:
    """Generators of a loader's own, from which its order is drawn."""
    of_batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), of_batches, getattr(of_batches, "sampler", None))
    held = [getattr(owner, "generator", None) for owner in owners]
    return list({id(each): each for each in held if isinstance(each, torch.Generator)}.values())
