"""Batching and shuffling: subclass `DataModule` and write `load`."""

from metronome.data.module import DataModule, Splits
from metronome.data.rows import Rows

__all__ = ["DataModule", "Rows", "Splits"]
