"""Advice in lines of 80 columns."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

from metronome.advice.advice import SLOW, Advice

WIDTH = 79
HEALTHY = "nothing to advise: no sign of a fault"
HEALTHY_SO_FAR = "nothing to advise, as far as losses and times can tell"
SHOWN = 3  # at the end of a run; all are in result.json


def at_the_end(found: Sequence[Advice], has_gradients: bool = True) -> list[str]:
    """What a run says at its end: of the first three what is seen, and what to add to the command.

    Args:
        has_gradients: whether there were enough to tell a rate or a batch that is far off.
    """
    if not found:
        return [f"advice     {HEALTHY if has_gradients else HEALTHY_SO_FAR}"]
    lines: list[str] = []
    for i, advice in enumerate(found[:SHOWN]):
        lines += _hanging("advice     " if i == 0 else " " * 11, advice.symptom)
        lines += _flags(advice, " " * 11) or _hanging(" " * 13, advice.advice)
    if len(found) > SHOWN:
        lines.append(f"{'':11}and {len(found) - SHOWN} more in result.json")
    return lines


def of_a_run(name: str, found: Sequence[Advice], why_little: str = "") -> list[str]:
    """All of the advice for a run, with its evidence."""
    lines = [name]
    if not found:
        lines += _hanging("  ", HEALTHY + (f" ({why_little})" if why_little else ""))
    for number, advice in enumerate(found, 1):
        lines += _hanging(f"  {number}. ", advice.symptom)
        lines += _hanging(f"     {'seen':6}", advice.evidence)
        lines += _hanging(f"     {'do':6}", advice.advice)
        lines += _hanging(f"     {'add':6}", advice.flags) if advice.flags else []
    if found and why_little:
        lines += _hanging("  ", f"({why_little})")
    return lines


def of_many(found: Mapping[str, Sequence[Advice]]) -> list[str]:
    """Of the runs of a sweep: each symptom, in how many of them, and one of them."""
    counts = Counter(advice.symptom for advices in found.values() for advice in advices)
    weight = {advice.symptom: advice.weight for advices in found.values() for advice in advices}
    lines: list[str] = []
    for symptom in sorted(counts, key=lambda symptom: (-weight[symptom], symptom)):
        runs = [name for name, advices in found.items() if symptom in {advice.symptom for advice in advices}]
        lines += _hanging(f"{counts[symptom]:5} of {len(found)}  ", symptom)
        lines += _hanging(" " * 13, f"such as {runs[0]}")
    healthy = sum(not any(advice.weight >= SLOW for advice in advices) for advices in found.values())
    return [*lines, f"{healthy:5} of {len(found)}  healthy" + (", but for notes" if lines else "")]


def _hanging(first: str, words: str) -> list[str]:
    return textwrap.wrap(
        words, WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _flags(advice: Advice, indent: str) -> list[str]:
    return _hanging(f"{indent}  ", advice.flags) if advice.flags else []
