"""Batching and shuffling: subclass `DataModule` and write `load`."""

from metronome.data.image_folder import ImageFolder
from metronome.data.mixtures.module import MixtureModule
from metronome.data.mixtures.sets import Mixture
from metronome.data.module import DataModule
from metronome.data.rows import Rows
from metronome.data.splits import Splits
from metronome.data.stored.files import mapped
from metronome.data.tokens import Tokens

__all__ = ["DataModule", "ImageFolder", "Mixture", "MixtureModule", "Rows", "Splits", "Tokens", "mapped"]
