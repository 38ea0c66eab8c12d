"""Callbacks that watch a training: its progress, its learning rate, its plan, its exactness, its target."""

from metronome.insight.layout.check import LayoutCheck
from metronome.insight.learning_rate import LearningRate
from metronome.insight.plan_in_tensorboard import PlanText
from metronome.insight.progress import Progress
from metronome.insight.target import StopAtTarget

__all__ = ["LayoutCheck", "LearningRate", "PlanText", "Progress", "StopAtTarget"]
