"""Callbacks that watch a training: progress, learning rate, plan, exactness, noise, its insides."""

from metronome.insight.early_stopping import EarlyStopping
from metronome.insight.gradient_accuracy.callback import GradientAccuracy
from metronome.insight.instruments.device_stats import DeviceStats
from metronome.insight.instruments.gradient_norm import GradientNorm
from metronome.insight.instruments.histograms import Histograms
from metronome.insight.instruments.hparams import HParams
from metronome.insight.instruments.mistakes import Mistakes
from metronome.insight.instruments.momentum import Momentum
from metronome.insight.instruments.samples_axis import SamplesAxis
from metronome.insight.instruments.step_time import StepTime
from metronome.insight.instruments.tensorboard_logger import TensorBoard
from metronome.insight.instruments.update_ratio import UpdateRatio
from metronome.insight.layers.callback import LayerWatch
from metronome.insight.layout.check import LayoutCheck
from metronome.insight.learning_rate import LearningRate
from metronome.insight.model_table import ModelTable
from metronome.insight.noise_scale.callback import NoiseScale
from metronome.insight.plan_in_tensorboard import PlanText
from metronome.insight.progress.callback import Progress
from metronome.insight.rate_search.callback import LRFinder
from metronome.insight.target import StopAtTarget
from metronome.insight.watched.callback import Watched

__all__ = [
    "DeviceStats",
    "EarlyStopping",
    "GradientAccuracy",
    "GradientNorm",
    "HParams",
    "Histograms",
    "LRFinder",
    "LayerWatch",
    "LayoutCheck",
    "LearningRate",
    "Mistakes",
    "ModelTable",
    "Momentum",
    "NoiseScale",
    "PlanText",
    "Progress",
    "SamplesAxis",
    "StepTime",
    "StopAtTarget",
    "TensorBoard",
    "UpdateRatio",
    "Watched",
]
