"""Callbacks that watch a training: its progress, its learning rate, its plan."""

from metronome.insight.learning_rate import LearningRate
from metronome.insight.plan_in_tensorboard import PlanText
from metronome.insight.progress import Progress

__all__ = ["LearningRate", "PlanText", "Progress"]
