"""Batching and shuffling: subclass `DataModule` and write `load`."""

from metronome.data.image_folder import ImageFolder
from metronome.data.module import DataModule, Splits
from metronome.data.rows import Rows
from metronome.data.stored.files import mapped
from metronome.data.tokens import Tokens

__all__ = ["DataModule", "ImageFolder", "Rows", "Splits", "Tokens", "mapped"]
