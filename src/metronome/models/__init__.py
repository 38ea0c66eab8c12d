"""LightningModules: a network, its loss, its metrics, its optimizer. Yours to extend."""

from metronome.models.classifier import Classifier
from metronome.models.regressor import Regressor
from metronome.models.supervised import Supervised

__all__ = ["Classifier", "Regressor", "Supervised"]
