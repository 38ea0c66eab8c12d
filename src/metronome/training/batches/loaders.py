"""Loaders: which samples of one that is not ours each device reads, and the sampler of one that is."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, default_collate

from metronome.training.batches.order import BatchSampler, EvaluationSampler
from metronome.training.batches.seeds import seed_of_everything
from metronome.training.lightning_private import DataConnectorBase
from metronome.training.state import TrainingState
from metronome.units import share_size

log = logging.getLogger("metronome.training")


def batch_sampler(trainer: L.Trainer) -> BatchSampler | None:
    """Our sampler, if the training loader has one."""
    sampler = getattr(trainer.train_dataloader, "batch_sampler", None)
    return sampler if isinstance(sampler, BatchSampler) else None


def parts_of(loaders: Any, batch: Any) -> list[tuple[Any, Any]]:
    """Each training loader with its part of a batch: of several a batch has the structure that they have, unless a hook
    has made it another, which is then a part of none."""
    if isinstance(loaders, Mapping):
        is_alike = isinstance(batch, Mapping) and batch.keys() == loaders.keys()
        pairs = [(loader, batch[name]) for name, loader in loaders.items()] if is_alike else None
    elif isinstance(loaders, list | tuple):
        is_alike = isinstance(batch, list | tuple) and len(batch) == len(loaders)
        pairs = list(zip(loaders, batch, strict=True)) if is_alike else None
    else:
        return [(loaders, batch)]
    return [(None, batch)] if pairs is None else [found for pair in pairs for found in parts_of(*pair)]


def batch_sizes(loader: Any, step: int) -> Sequence[int]:
    """How many samples a batch of a training loader may have in this step of an epoch, the usual number first;
    nothing where it says nothing, or batches of one, which are often batches made elsewhere."""
    if not isinstance(loader, DataLoader) or (size := loader.batch_size) in (None, 1):
        return ()
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.sampler, "__len__"):
        return range(size, 0, -1)
    full, rest = divmod(len(loader.sampler), size)  # pyright: ignore
    # A loader that a run went on with may begin anew, so its last batch is not known by the step.
    return (rest,) if full == 0 else (size, rest) if step > 0 and rest else (size,)


def collates_by_default(trainer: L.Trainer) -> bool:
    """Whether the training loader's batches are columns, each as long as the batch."""
    return getattr(trainer.train_dataloader, "collate_fn", None) is default_collate


class DataConnector(DataConnectorBase):
    """Lightning's data connector: it leaves our samplers alone, and cuts other loaders up for evaluation exactly.

    A foreign training loader gets Lightning's `DistributedSampler`, as it would under Lightning's own Trainer: its
    `batch_size` is then that of one device's share. For evaluation each sample goes to exactly one device, where
    Lightning repeats some; only where that would give the devices different numbers of batches (a model that
    exchanges its buffers in forward would hang) its way is kept.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState) -> None:
        super().__init__(trainer)
        self.state = state

    def prepare_data(self) -> None:
        if self.state.follows_seed_everything:
            self.state.seed = seed_of_everything()
            if self.trainer.world_size > 1:
                # Some seed each process differently; but the order of samples is one, and a step's seeds know the rank.
                self.state.seed = self.trainer.strategy.broadcast(self.state.seed)
        super().prepare_data()

    def _requires_distributed_sampler(self, dataloader: DataLoader) -> bool:
        ours = isinstance(dataloader.batch_sampler, BatchSampler | EvaluationSampler)
        return not ours and super()._requires_distributed_sampler(dataloader)

    def _resolve_sampler(self, dataloader: DataLoader, shuffle: bool, mode: RunningStage | None = None) -> Any:
        place = self.trainer.distributed_sampler_kwargs  # num_replicas and rank
        evaluating = mode not in (RunningStage.TRAINING, RunningStage.PREDICTING)
        if evaluating and place is not None and self._requires_distributed_sampler(dataloader):
            devices, samples = place["num_replicas"], len(dataloader.sampler)  # pyright: ignore
            batches = {-(-share_size(samples, devices, i) // (dataloader.batch_size or 1)) for i in (0, devices - 1)}
            if samples >= devices and len(batches) == 1:
                return UnrepeatedDistributedSamplerWrapper(dataloader.sampler, shuffle=False, **place)
        is_new = mode == RunningStage.TRAINING and self._requires_distributed_sampler(dataloader)
        if is_new and isinstance(dataloader.sampler, SequentialSampler) and self.trainer.is_global_zero:
            log.info(
                "the training loader reads in order on one device, and Lightning shuffles it on several; give it a "
                "DistributedSampler(shuffle=False) of your own, or shuffle it on one device too"
            )
        return super()._resolve_sampler(dataloader, shuffle, mode)
