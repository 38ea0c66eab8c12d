"""What to do about a run: symptoms, evidence, advice, flags."""

from metronome.advice.advice import Advice
from metronome.advice.advise import advise

__all__ = ["Advice", "advise"]
