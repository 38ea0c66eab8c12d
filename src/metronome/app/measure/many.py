"""Plans of several settings as one table: a row each, by what is not the same in all. Imports nothing heavy."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from metronome.units import InputError, Plan
from metronome.units.amounts import bytes_text, digits, seconds_text

_WIDTH = 80
_ABOUT_THE_TABLE = ("measure", "seconds", "format")


@dataclass
class Rows:
    """Gathers the plans of a command with `-m`, and makes a text of them.

    >>> from metronome.units import BatchSchedule, Duration
    >>> rows = Rows()
    >>> for size in (64, 256):
    ...     with rows.of_a_job(["+experiment=digits", f"data.batch_size={size}"]):
    ...         rows.add(Plan.make(1257, BatchSchedule(size), budgets=[Duration.parse("15 epochs")]))
    >>> print(rows.text())
    batch_size  micro-batch  steps an epoch  steps  iterations  samples
            64           64              20    300         300   18,855
           256          256               5     75          75   18,855
    """

    kept: list[dict[str, Any]] = field(default_factory=list)
    form: str = "text"  # or json
    _job: list[str] = field(default_factory=list)

    @contextmanager
    def of_a_job(self, overrides: list[str]) -> Iterator[None]:
        """Around a plan: one that cannot be made is a row that says why."""
        self._job = overrides
        try:
            yield
        except InputError as error:
            self.kept.append({"overrides": overrides, "error": " ".join(str(error).split())})

    def add(
        self,
        plan: Plan,
        measured: Any = None,
        cells: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        """Take the plan of the job; `measured` is a `MeasuredPlan`. `cells`, by their heads, take the place of what is
        shown of a plan, and `more` is added to its numbers."""
        self.kept.append({"overrides": self._job, "plan": plan, "measured": measured, "cells": cells, "more": more})

    def text(self) -> str:
        """Of all of them, in the form that they were asked for in."""
        if self.form == "json":
            return json.dumps([_as_dict(row) for row in self.kept], indent=2)
        shared = set.intersection(*(set(row["overrides"]) for row in self.kept)) if len(self.kept) > 1 else set()
        shared |= {o for row in self.kept for o in row["overrides"] if _key_and_value(o)[0] in _ABOUT_THE_TABLE}
        own = [dict(_key_and_value(o) for o in row["overrides"] if o not in shared) for row in self.kept]
        names = _short_names(list(dict.fromkeys(key for values in own for key in values)))
        measures = any(row.get("measured") is not None for row in self.kept)
        heads = ["micro-batch", "steps an epoch", "steps", "iterations", "samples"]
        if measures:  # what a step is cut into is in the plan of each
            heads = ["micro-batch", "steps", "ms a step", "training", "memory"]
        heads = next((list(row["cells"]) for row in self.kept if row.get("cells")), heads)
        table = [[*names.values(), *heads]]
        for values, row in zip(own, self.kept, strict=True):
            own_cells = list((row.get("cells") or {}).values())
            cells = own_cells or (_measured_cells(row) if measures else _cells(row))
            table.append([*(values.get(key, "") for key in names), *cells])
        return "\n".join(_lines(table, len(names)))


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["error"]]
    plan: Plan = row["plan"]
    totals = (plan.total_steps, plan.total_iterations, plan.total_samples)
    return [
        f"{plan.micro_batch_size:,}",
        f"{plan.steps_per_epoch:,}",
        *("not known" if number is None else f"{number:,}" for number in totals),
    ]


def _measured_cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["error"]]
    plan: Plan = row["plan"]
    measured: Any = row["measured"]
    steps = "not known" if plan.total_steps is None else f"{plan.total_steps:,}"
    head = [f"{plan.micro_batch_size:,}", steps]
    own: Any = measured.own
    if own.times is None:
        return [*head, own.why]
    parts = measured.parts(own)
    training = "not known" if parts is None else seconds_text(sum(parts.values()))
    return [*head, digits(own.times.median * 1e3), training, bytes_text(own.found["memory"]["peak"])]


def _lines(table: list[list[str]], names: int) -> list[str]:
    """Cells to the right; a row that is short ends in words, over as many lines as they need."""
    count = len(table[0])
    whole = [row for row in table if len(row) == count]
    widths = [max(len(row[i]) for row in (table if i < names else whole)) for i in range(count)]
    lines = []
    for row in table:
        known = len(row) if len(row) == count else len(row) - 1
        line = "  ".join(f"{cell:>{width}}" for cell, width in zip(row[:known], widths, strict=False))
        if known < len(row):
            first, *rest = wrap(row[-1], max(_WIDTH - len(line) - 2, 30))
            lines += [f"{line}  {first}", *(" " * (len(line) + 2) + words for words in rest)]
        else:
            lines.append(line)
    return lines


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+").partition("=")
    return key, value


def _short_names(keys: list[str]) -> dict[str, str]:
    """Only the last word of a key, where no other has it."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _as_dict(row: dict[str, Any]) -> dict[str, Any]:
    if "error" in row:
        return row
    content = {"overrides": row["overrides"]} | row["plan"].as_dict() | (row["more"] or {})
    if row["measured"] is not None:
        from metronome.app.measure.text import numbers_of

        content["measured"] = numbers_of(row["measured"])
    return content
