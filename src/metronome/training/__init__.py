"""How one step is executed, repeated and resumed."""

from metronome.training.checkpoint import Checkpoint
from metronome.training.order import BatchSampler, EvaluationSampler, Share
from metronome.training.trainer import Trainer

__all__ = ["BatchSampler", "Checkpoint", "EvaluationSampler", "Share", "Trainer"]
