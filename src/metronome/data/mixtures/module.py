"""Several data modules as one: `data=mixture`."""

import logging
from collections.abc import Mapping
from typing import Any

from torch.utils.data import default_collate

from metronome.data.mixtures.sets import Mixture, Together
from metronome.data.module import DataModule
from metronome.data.splits import Splits
from metronome.units import InputError

log = logging.getLogger("metronome.data")


class MixtureModule(DataModule):
    """The training sets of several data modules mixed, as `Mixture` says it; their validation and test sets one after
    the other. Batches, shuffling and workers are this module's: those of the others do nothing.

    Args:
        sets: data modules by name; one that is None is left out.
        weights, alpha, epoch: those of Mixture.
        options: those of DataModule.

    Raises:
        InputError: for what is no DataModule of ours, and for modules that make batches of their samples in different
            ways.
    """

    def __init__(
        self,
        sets: Mapping[str, Any],
        weights: Mapping[str, Any] | None = None,
        *,
        alpha: float | None = None,
        epoch: str | int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not isinstance(sets, Mapping):
            raise InputError(f"data.sets={sets!r} is no mapping of names to data modules")
        self.sets: dict[str, DataModule] = {str(name): module for name, module in sets.items() if module is not None}
        for name, module in self.sets.items():
            if not isinstance(module, DataModule):
                raise InputError(
                    f"data.sets.{name} is a {type(module).__name__}, and a mixture is made of data modules that are "
                    "metronome.data.DataModule, whose samples it can read one by one"
                )
        if not self.sets:
            raise InputError("data.sets is empty; name the data modules to mix, such as data.sets.a={_target_: ...}")
        if weights is not None:  # one for a set that is left out counts as nothing
            weights = {name: weight for name, weight in weights.items() if sets.get(name, self) is not None}
        self.weights, self.alpha, self.epoch = weights, alpha, epoch
        ways = {id(module.collate): module.collate for module in self.sets.values()}
        if len(ways) > 1:
            names = ", ".join(f"{name} by {_name(module.collate)}" for name, module in self.sets.items())
            raise InputError(
                f"the sets of a mixture make batches in different ways: {names}; let all use one `collate`"
            )
        self.collate = next(iter(ways.values()), default_collate)
        self.casts_floats = all(module.casts_floats for module in self.sets.values())

    def prepare_data(self) -> None:
        for module in self.sets.values():
            module.prepare_data()

    def load(self) -> Splits:
        splits = {name: module.splits for name, module in self.sets.items()}
        missing = [name for name, split in splits.items() if split.train is None]
        if missing:
            raise InputError(f"data.sets.{missing[0]} has no training data set to mix")
        train = Mixture(
            {name: split.train for name, split in splits.items()}, self.weights, alpha=self.alpha, epoch=self.epoch
        )
        return Splits(train, *(_together({n: split[i] for n, split in splits.items()}) for i in (1, 2)))


def _together(sets: Mapping[str, Any]) -> Together | None:
    there = {name: dataset for name, dataset in sets.items() if dataset is not None}
    return Together(there) if there else None


def _name(collate: Any) -> str:
    return getattr(collate, "__name__", type(collate).__name__)
