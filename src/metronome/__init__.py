"""Metronome: training on PyTorch Lightning and Hydra, in units that are exact."""

__version__ = "0.1.0"
