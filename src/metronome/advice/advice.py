"""A piece of advice: what is seen in a run, the numbers, what to do, and the words to type."""

from dataclasses import dataclass
from typing import Any

# How much it matters: a result that is lost, a poor one, time that is lost, and what is good to know.
LOST, POOR, SLOW, NOTE = 300, 200, 100, 0


@dataclass(frozen=True)
class Advice:
    """Attributes:
    symptom: a few words, the same for each run that shows it.
    evidence: the numbers.
    advice: what to do, and what to expect of it.
    flags: exact, to be added to the command of the run; empty where nothing can be typed.
    weight: what matters more comes first.
    """

    symptom: str
    evidence: str
    advice: str
    flags: str = ""
    weight: float = NOTE

    def as_dict(self) -> dict[str, Any]:
        return {"symptom": self.symptom, "evidence": self.evidence, "advice": self.advice, "flags": self.flags}
