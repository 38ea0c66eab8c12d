"""The advice for runs, on the page of a report: each symptom once, with the runs that show it."""

from collections.abc import Sequence

from metronome.advice.advice import Advice
from metronome.advice.advise import advise
from metronome.advice.text import HEALTHY
from metronome.report.html.elements import codes, escaped
from metronome.report.records import RunRecord

_RUNS_NAMED = 3


def advice_of(runs: Sequence[RunRecord]) -> str:
    """A list of symptoms, what matters most first; nothing where no run has left a result."""
    ended = [run for run in runs if run.result]
    by_symptom: dict[str, list[tuple[Advice, RunRecord]]] = {}
    for run in ended:
        for advice in advise(run.result, run.config):
            by_symptom.setdefault(advice.symptom, []).append((advice, run))
    if not ended:
        return ""
    found = sorted(by_symptom.values(), key=lambda pairs: (-pairs[0][0].weight, -len(pairs)))
    return f"<ul>{''.join(_item(pairs, len(ended)) for pairs in found)}</ul>" if found else f"<p>{escaped(HEALTHY)}</p>"


def _item(pairs: Sequence[tuple[Advice, RunRecord]], count: int) -> str:
    advice, run = pairs[0]
    names = ", ".join(run.name for _, run in pairs[:_RUNS_NAMED])
    more = f" and {len(pairs) - _RUNS_NAMED:,} more" if len(pairs) > _RUNS_NAMED else ""
    of = f" in {len(pairs):,} of {count:,} runs: {names}{more}" if count > 1 else ""
    such = f"In {run.name}: " if len(pairs) > 1 else ""
    flags = f"<br>{codes([advice.flags])}" if advice.flags else ""
    return (
        f"<li><strong>{escaped(advice.symptom)}</strong>{escaped(of)}<br>"
        f"{escaped(such + advice.evidence)}; {escaped(advice.advice)}{flags}</li>"
    )
