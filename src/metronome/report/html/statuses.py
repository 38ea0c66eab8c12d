"""How runs ended, counted and in order."""

from collections import Counter
from collections.abc import Iterable

from metronome.report.differences import Group
from metronome.report.records import UNFINISHED, RunRecord


def statuses(runs: Iterable[RunRecord]) -> dict[str, int]:
    """How many runs ended how: the finished first."""
    counts = Counter(run.status for run in runs)
    return {status: counts[status] for status in sorted(counts, key=in_order)}


def in_order(status: str) -> tuple[int, str]:
    known = ("finished", "stopped", "failed", UNFINISHED)
    return known.index(status) if status in known else len(known), status


def status_of(group: Group) -> str:
    counts = statuses(group.runs)
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{count} {name}" for name, count in counts.items())
