"""Data modules: batching and shuffling. Yours to extend: subclass `DataModule` and write `load`."""

from metronome.data.digits import Digits
from metronome.data.images import Images
from metronome.data.linear import Linear
from metronome.data.mnist import MNIST, FashionMNIST
from metronome.data.module import DataModule, Splits
from metronome.data.rows import Rows

__all__ = ["MNIST", "DataModule", "Digits", "FashionMNIST", "Images", "Linear", "Rows", "Splits"]
