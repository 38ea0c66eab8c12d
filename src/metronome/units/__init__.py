"""Epochs, batches, steps, durations and the plan: pure arithmetic, no torch, no Lightning."""

from metronome.units.direction import direction_of
from metronome.units.duration import Duration
from metronome.units.epoch_series import EpochPlan, accumulation_at
from metronome.units.errors import InputError, RunFailed, check_number
from metronome.units.micro_batches import micro_batch_size, micro_batches_of
from metronome.units.plan import Plan
from metronome.units.rate import scaled_rate
from metronome.units.schedule import BatchSchedule
from metronome.units.split import even_split, share_size

__all__ = [
    "BatchSchedule",
    "Duration",
    "EpochPlan",
    "InputError",
    "Plan",
    "RunFailed",
    "accumulation_at",
    "check_number",
    "direction_of",
    "even_split",
    "micro_batch_size",
    "micro_batches_of",
    "scaled_rate",
    "share_size",
]
