"""Callbacks that watch a training: its progress, its learning rate, its plan, its exactness, its insides."""

from metronome.insight.instruments.gradient_norm import GradientNorm
from metronome.insight.instruments.histograms import Histograms
from metronome.insight.instruments.hparams import HParams
from metronome.insight.instruments.mistakes import Mistakes
from metronome.insight.instruments.momentum import Momentum
from metronome.insight.instruments.samples_axis import SamplesAxis
from metronome.insight.instruments.step_time import StepTime
from metronome.insight.instruments.tensorboard_logger import TensorBoard
from metronome.insight.instruments.update_ratio import UpdateRatio
from metronome.insight.layout.check import LayoutCheck
from metronome.insight.learning_rate import LearningRate
from metronome.insight.plan_in_tensorboard import PlanText
from metronome.insight.progress import Progress

__all__ = [
    "GradientNorm", "HParams", "Histograms", "LayoutCheck", "LearningRate", "Mistakes", "Momentum", "PlanText",
    "Progress", "SamplesAxis", "StepTime", "TensorBoard", "UpdateRatio",
]  # fmt: skip
