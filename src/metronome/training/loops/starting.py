"""Where an epoch's batches begin: at the step that a checkpoint has left, whoever has made the loaders."""

import logging
from collections.abc import Callable
from copy import deepcopy
from inspect import GEN_CREATED, GEN_SUSPENDED, getgeneratorstate, isgenerator
from math import inf
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import SequentialSampler

from metronome.training.batches.order import BatchSampler
from metronome.training.batches.seeds import StepSeeds, remember_generators
from metronome.training.lightning_private import DataFetcher
from metronome.training.state import TrainingState

log = logging.getLogger("metronome.training")

_NOTHING = object()


def begin_ours(
    sampler: BatchSampler, fetcher: DataFetcher, position: tuple[int, int], order_before: dict[str, Any] | None
) -> None:
    """Our sampler is placed at (epoch, step). `order_before` is that of a checkpoint from the middle of an epoch.

    Raises:
        InputError: if the order of the epoch has changed since.
    """
    if position[1] and order_before is not None:
        sampler.check_order(order_before)
    elif order_before is not None:
        sampler.check_change(order_before)
    if sampler.position != position:
        # An iterator was made when the loader was, or for the epoch before: make it anew from this position.
        sampler.position = position
        iter(fetcher)
    fetcher.fetched += position[1]


class ForeignLoaders:
    """Begins the epochs of loaders that draw their own order.

    Where an iterator is made, the generators of torch, numpy and Python are seeded for the epoch: with workers a loader
    draws its order there, without them at the first batch. A generator of the loader's own goes on from epoch to epoch,
    and is kept in checkpoints. A loader that keeps its own state is believed; any other is read in mid-epoch from the
    epoch's first batch on, with all that is drawn in between, and what the checkpoint had seen is dropped.
    """

    def __init__(self, trainer: L.Trainer, state: TrainingState) -> None:
        self.trainer, self.state = trainer, state
        self.restored: list[Any] = []  # the loaders' own states, of the checkpoint
        self._is_restored = False  # whether the epoch being run was begun from those
        self.is_of_lightning = False  # whether it was written by Lightning's own Trainer
        self._is_begun = False  # whether the loaders' setup has made the iterator of the first epoch
        self._at_start: list[Tensor] = []  # of the loaders' own generators, where the epoch began
        self._before: dict[str, list[Tensor]] = {}  # the same, and as they were later, of the checkpoint
        self._states: list[Any] | None = None  # the loaders' own states, where Lightning has fetched a batch ahead

    def set_up(self, loader: CombinedLoader, epoch: int) -> Callable[[], None]:
        """Before the first iterator is made; what is returned is to be called after that."""
        self._is_begun, self._at_start = epoch == 0, _states(loader)
        steps_taken = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.restored else 0
        return self._going_on(loader, epoch, steps_taken)

    def _going_on(self, loader: CombinedLoader, epoch: int, steps_taken: int) -> Callable[[], None]:
        """Before an iterator is made of loaders that keep their state; what is returned is to be called after that.
        Without a length, a batch is read in the fetch of the step before."""
        limits = loader.limits or [inf] * len(loader.flattened)
        has_length = all(
            sized_len(each) is not None or limit < inf for each, limit in zip(loader.flattened, limits, strict=True)
        )
        return self._seed(epoch, 0 if has_length else max(steps_taken - 1, 0))

    def _seed(self, epoch: int, step: int = 0) -> Callable[[], None]:
        """Seed for the order of an epoch, or for a fetch in it; what is returned puts the generators back."""
        device = self.trainer.strategy.root_device
        put_back = remember_generators(device)
        StepSeeds(self.state.seed, device, None)(epoch, step)
        return put_back

    # ---- loaders without a length -----------------------------------------------------------------------

    def remember(self, fetcher: DataFetcher) -> None:
        """Called before each of Lightning's fetches. Of a loader without a length it fetches one batch more than the
        step takes, to see the end come: where the loader is then, is no place to go on from."""
        loader = fetcher.combined_loader
        if fetcher.length is None and (states := loader._state_dicts()):
            self._states = deepcopy(states)  # the loader may go on in it

    def states_to_save(self, fetcher: DataFetcher | None) -> list[Any] | None:
        """What a checkpoint is to keep of the loaders, where that is not their state of now."""
        if fetcher is None or fetcher.length is not None:
            return None
        return None if fetcher.done and _know_their_end(fetcher.combined_loader) else self._states

    def begin(self, fetcher: DataFetcher, epoch: int, steps_taken: int, fetch: Callable[[int], Any] | None) -> None:
        """An epoch of which this many steps have been made. `fetch` seeds for the fetch of a batch."""
        loader, before, is_begun = fetcher.combined_loader, self._before, self._is_begun and epoch == 0
        states, self.restored, self._before, self._is_begun = self.restored, [], {}, False
        if self._is_restored and fetcher.done and not _know_their_end(loader):
            # Some note at their end alone that they begin anew; by its length Lightning does not go there.
            for each in _generators_of(loader, GEN_SUSPENDED):
                next(each, None)
            self._is_restored = False
        self._is_restored |= bool(states)
        if states and (steps_taken or epoch):
            self._begin_restored(fetcher, states, epoch, steps_taken, is_over=fetch is None or not steps_taken)
            if steps_taken or _know_their_end(loader):
                fetcher.fetched += steps_taken
                return
        elif fetch is None:  # nothing is left of the epoch
            _put_back(loader, before)
            fetcher.fetched += steps_taken
            return
        if before:
            _put_back(loader, before, "start" if steps_taken else "now")
        if before or not is_begun:
            self._at_start, put_back = _states(loader), self._seed(epoch)
            iter(fetcher)
            put_back()
        if steps_taken and fetch is not None:
            self._tell(loader, epoch, steps_taken)
            for step in range(steps_taken):
                fetch(step)
                next(fetcher)

    def _begin_restored(
        self, fetcher: DataFetcher, states: list[Any], epoch: int, steps_taken: int, is_over: bool
    ) -> None:
        """`is_over`: the states are of an epoch's end."""
        loader, fit_loop = fetcher.combined_loader, self.trainer.fit_loop
        if fit_loop._combined_loader_states_to_load:  # the setup came before the checkpoint
            fit_loop._combined_loader_states_to_load = []
            loader._load_state_dicts(states)
            put_back = self._going_on(loader, epoch, steps_taken)
            iter(fetcher)
            put_back()
        # A loader whose `__iter__` is a generator takes its state up with the first batch only: without one its next
        # epoch would begin where this one has ended.
        waiting = _generators_of(loader, GEN_CREATED) if is_over and not _know_their_end(loader) else []
        has_more = [next(each, _NOTHING) is not _NOTHING for each in waiting]
        if has_more == [True] and len(loader.flattened) == 1:  # at its end it says where its next epoch begins
            loader._load_state_dicts(states)

    def _tell(self, loader: CombinedLoader, epoch: int, steps_taken: int) -> None:
        samplers = [getattr(each, "sampler", None) for each in loader.flattened]
        if self.is_of_lightning and not all(isinstance(sampler, SequentialSampler) for sampler in samplers):
            log.warning(
                "resumed in mid-epoch from a checkpoint of Lightning's own Trainer, whose order of samples cannot be "
                "had again: the rest of the epoch is not what it had left; start from a checkpoint at an epoch's end"
            )
        if epoch and any(getattr(each, "persistent_workers", False) for each in loader.flattened):
            log.warning(
                "resumed with persistent_workers=True: what the workers draw goes on from epoch to epoch, and cannot "
                "be had again; the order of the samples is the same"
            )
        many = "batch" if steps_taken == 1 else f"{steps_taken:,} batches"
        log.info("resumed in mid-epoch: read past the %s before the checkpoint", many)

    # ---- in a checkpoint --------------------------------------------------------------------------------

    def state_dict(self, loader: CombinedLoader | None) -> dict[str, list[Tensor]]:
        """The loaders' own generators where the epoch began, and as they are; nothing where there are none."""
        now = [] if loader is None else _states(loader)
        return {"start": self._at_start, "now": now} if now else {}

    def load_state_dict(self, epoch_state: dict[str, Any]) -> None:
        """From what a checkpoint has kept of an epoch."""
        self._before, self.is_of_lightning = epoch_state.get("generators", {}), "counters" not in epoch_state


def _know_their_end(loader: CombinedLoader) -> bool:
    """Whether the loaders' states tell an epoch's end, and the next iterator begins where they say."""
    return all(getattr(each, "knows_its_end", False) for each in loader.flattened)


def _states(loader: CombinedLoader) -> list[Tensor]:
    return [generator.get_state() for generator in _own_generators(loader)]


def _put_back(loader: CombinedLoader, states: dict[str, list[Tensor]], which: str = "now") -> None:
    for generator, state in zip(_own_generators(loader), states.get(which, ()), strict=False):
        generator.set_state(state)


def _generators_of(loader: CombinedLoader, state: str) -> list[Any]:
    """Those of the loaders' iterators that are Python generators in this state."""
    iterators: Any = [] if loader._iterator is None else loader._iterator.iterators
    return [each for each in iterators if isgenerator(each) and getgeneratorstate(each) == state]


def _own_generators(loader: CombinedLoader) -> list[torch.Generator]:
    """The generators that were given to the loaders or their samplers."""
    found: dict[int, torch.Generator] = {}
    for each in loader.flattened:
        of_batches = getattr(each, "batch_sampler", None)
        for owner in (each, getattr(each, "sampler", None), of_batches, getattr(of_batches, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())
