"""Data sets: each a `metronome.data.DataModule` with a `load`, which returns what to train, validate and test on."""

from project.data.digits import Digits
from project.data.images import Images
from project.data.linear import Linear
from project.data.manual import Manual
from project.data.mnist import MNIST, FashionMNIST
from project.data.noise import Noise
from project.data.text import Text

__all__ = ["MNIST", "Digits", "FashionMNIST", "Images", "Linear", "Manual", "Noise", "Text"]
