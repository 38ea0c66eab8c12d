"""How one step is executed, repeated and resumed."""

from metronome.training.averaging.ema import EMA
from metronome.training.averaging.swa import SWA
from metronome.training.batches.order import BatchSampler, EvaluationSampler, Share
from metronome.training.checkpoints.callback import Checkpoint
from metronome.training.trainer import Trainer

__all__ = ["EMA", "SWA", "BatchSampler", "Checkpoint", "EvaluationSampler", "Share", "Trainer"]
