"""Clocks, rounds, medians: how anything is measured here."""

import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Clock = Callable[[], float]  # seconds, from anywhere on


def clock_of(name: str) -> Clock:
    """`wall`: as it passes. `cpu`: what this process and its living children have computed, whoever else computes."""
    return time.perf_counter if name == "wall" else _computed


def _computed() -> float:
    # The clock of another process, by its number: clock_getcpuclockid(3), as Linux's posix-timers.h makes it.
    others = (child.pid for child in multiprocessing.active_children())
    return time.process_time() + sum(time.clock_gettime((~pid << 3) | 2) for pid in others if pid is not None)


class Stopwatch:
    """Seconds from the end of a warm-up to the end of the last step.

    Args:
        clock: that it goes by.
        steps: to be measured.
        warmup: steps before them.
    """

    def __init__(self, clock: Clock, steps: int, warmup: int) -> None:
        self.clock, self.steps, self.warmup = clock, steps, warmup
        self.last = warmup + steps
        self.done = 0
        self.seconds = float("nan")
        self._began = 0.0

    def step_done(self) -> bool:
        """Count a step; whether it was the last."""
        self.done += 1
        if self.done == self.warmup:
            self._began = self.clock()
        elif self.done == self.last:
            self.seconds = self.clock() - self._began
            return True
        return False

    @property
    def micros(self) -> float:
        """Microseconds a step."""
        return self.seconds / self.steps * 1e6


@dataclass(frozen=True)
class Way:
    """One way to do what a case asks for.

    Attributes:
        name: in the table.
        measure: do it once; returns the number in the case's unit, or None where it cannot be done here.
        beside: for each column of ratios, the way that it is compared with; None leaves it empty.
        remark: what else there is to say of it, asked for when all is measured.
    """

    name: str
    measure: Callable[[], float | None]
    beside: Sequence[str | None] = ()
    remark: Callable[[], str] = str


@dataclass(frozen=True)
class Case:
    """What is measured, in several ways, each once a round.

    Attributes:
        name, title, unit: as in the table.
        ways: the first is what the others are added to.
        ratios: what the ways are compared with, in a word each: heads of columns.
        shows_added: whether the difference to the first of these means something.
        remark: head of a last column, if the ways have remarks.
        check: called before the rounds; returns a line on what the ways have in common.
        notes: lines on what follows from the numbers of all ways.
    """

    name: str
    title: str
    unit: str
    ways: Sequence[Way]
    ratios: Sequence[str] = ()
    shows_added: bool = False
    remark: str = ""
    check: Callable[[], str] | None = None
    notes: Callable[[Mapping[str, list[float]]], list[str]] | None = None


@dataclass(frozen=True)
class Row:
    """What was measured of a way: one value a round, none where it could not be done."""

    way: str
    values: list[float]
    added: float | None
    ratios: list[float | None]
    remark: str = ""

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True)
class Measured:
    """A case, measured."""

    case: Case
    rows: list[Row]
    lines: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        rows = {}
        for row in self.rows:
            rows[row.way] = {
                "values": row.values,
                "median": row.median if row.values else None,
                "lowest": min(row.values, default=None),
                "highest": max(row.values, default=None),
                "added": row.added,
                "ratios": {f"x {name}": ratio for name, ratio in zip(self.case.ratios, row.ratios, strict=False)},
                "remark": row.remark,
            }
        return {"title": self.case.title, "unit": self.case.unit, "ways": rows, "notes": self.lines}


def measure(case: Case, rounds: int) -> Measured:
    """All ways in turn in each round, so that a noisy moment meets them all."""
    lines = [] if case.check is None else [case.check()]
    values: dict[str, list[float]] = {way.name: [] for way in case.ways}
    for _ in range(rounds):
        for way in case.ways:
            gc.collect()  # what the way before has left is not this one's to clear away
            if (value := way.measure()) is not None:
                values[way.name].append(value)
    if case.notes is not None:
        lines += case.notes(values)
    return Measured(case, [_row(case, way, values) for way in case.ways], lines)


def _row(case: Case, way: Way, values: Mapping[str, list[float]]) -> Row:
    mine = values[way.name]
    added = None
    if case.shows_added and way.beside and way.beside[0] not in (None, way.name):
        added = _median_of_rounds(mine, values[way.beside[0]], lambda a, b: a - b)
    ratios = [
        None if name is None else _median_of_rounds(mine, values[name], lambda a, b: a / b) for name in way.beside
    ]
    return Row(way.name, mine, added, ratios, way.remark())


def _median_of_rounds(mine: list[float], other: list[float], of: Callable[[float, float], float]) -> float | None:
    """The median over the rounds of what was measured in the same round."""
    return median(map(of, mine, other)) if len(mine) == len(other) > 0 else None
