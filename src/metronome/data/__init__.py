"""Batching and shuffling: subclass `DataModule` and write `load`."""

from metronome.data.mixtures.module import MixtureModule
from metronome.data.mixtures.sets import Mixture
from metronome.data.module import DataModule, Splits
from metronome.data.rows import Rows

__all__ = ["DataModule", "Mixture", "MixtureModule", "Rows", "Splits"]
