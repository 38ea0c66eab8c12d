"""Callbacks that watch a training: its progress, learning rate, plan, exactness, target and noise."""

from metronome.insight.gradient_accuracy.callback import GradientAccuracy
from metronome.insight.layout.check import LayoutCheck
from metronome.insight.learning_rate import LearningRate
from metronome.insight.noise_scale.callback import NoiseScale
from metronome.insight.plan_in_tensorboard import PlanText
from metronome.insight.progress import Progress
from metronome.insight.target import StopAtTarget

__all__ = [
    "GradientAccuracy",
    "LayoutCheck",
    "LearningRate",
    "NoiseScale",
    "PlanText",
    "Progress",
    "StopAtTarget",
]
