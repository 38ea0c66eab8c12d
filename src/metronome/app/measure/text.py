"""What was measured of a plan, as a text of 80 columns and as plain numbers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from metronome.app.measure.story import Measured, MeasuredPlan
from metronome.units.amounts import bytes_text, digits, seconds_text


def text_of(measured: MeasuredPlan) -> str:
    """Of the training itself, then a table of its layouts, where there are others."""
    lines = _of_the_training(measured)
    if len(measured.others) > 1:
        lines += ["", *_table(measured)]
        if not measured.grows:
            lines.append("<- as configured; accum.: trainer.accumulate_grad_batches")
    lines += [f"(without {name}, which writes where others look)" for name in measured.left_out]
    return "\n".join(lines)


def _of_the_training(measured: MeasuredPlan) -> list[str]:
    own, plan = measured.own, measured.plan
    if own.found is None or own.times is None:
        return [f"measured   nothing: {own.why}"]
    found, times, memory = own.found, own.times, own.found["memory"]
    threads = found["threads"]
    place = "a GPU" if found["on_gpu"] else f"a CPU with {threads} thread{'s' if threads > 1 else ''}"
    if plan.devices > 1:
        place = f"{plan.devices} devices, each {place}"
    rate = plan.batch_size / times.median
    lines = [
        f"step       {_spread(times)} ms, {rate:,.0f} samples/s",
        f"           {times.count:,} step{'s' if times.count > 1 else ''} on {place}",
    ]
    if found["validation"] is not None:
        lines.append(f"validation {seconds_text(found['validation'])}{_saves(found['saving'])}")
    parts = measured.parts(own)
    if parts is None:
        lines.append("training   how long it takes is not known: its number of steps is not")
    else:
        shares = " + ".join(f"{name} {seconds_text(part)}" for name, part in parts.items() if part > 0)
        lines.append(f"training   {seconds_text(sum(parts.values()))} = {shares}")
        if measured.validations is None and found["validation"] is not None:
            lines.append("           and its validations, whose number is not known")
    rest = memory["peak"] - memory["before"] - memory["gradients"] - memory["optimizer"]
    where = "on the GPU" if found["on_gpu"] else "of this process"
    kept = memory["before"] - memory["parameters"]
    lines += [
        f"memory     {bytes_text(memory['peak'])} {where} at the most",
        f"           {bytes_text(memory['parameters'])} weights + {bytes_text(memory['gradients'])} gradients + "
        f"{bytes_text(memory['optimizer'])} optimizer's",
        f"           + {bytes_text(max(rest, 0))} activations and work space + {bytes_text(max(kept, 0))} "
        + ("data" if found["on_gpu"] else "Python and data"),
    ]
    return lines


def shortened(words: str, most: int = 40) -> str:
    return words if len(words) <= most else words[: most - 3] + "..."


def _saves(saving: float) -> str:
    return f", and {seconds_text(saving)} to save after it" if saving > 0 else ""


def _table(measured: MeasuredPlan) -> list[str]:
    first = "batch" if measured.grows else "devices"
    rows = [(first, "accum.", "micro-batch", "ms a step", "", "training", "memory", "")]
    for other in measured.others:
        layout = other.layout
        head = (
            f"{layout.batch_size if measured.grows else layout.devices:,}",
            f"{layout.accumulate:,}",
            f"{layout.micro_batch:,}",
        )
        mark = "<-" if other is measured.own and not measured.grows else ""
        if other.found is None or other.times is None:
            rows.append((*head, shortened(other.why), "", "", "", mark))
            continue
        parts = None if measured.grows else measured.parts(other)
        whole = "" if parts is None else seconds_text(sum(parts.values()))
        middle, _, spread = _spread(other.times).partition(" ")
        rows.append((*head, middle, spread, whole, bytes_text(other.found["memory"]["peak"]), mark))
    if measured.grows:
        rows = [(*row[:5], row[6], row[7]) for row in rows]
    return columns(rows, reasons=3)


def columns(rows: Sequence[Sequence[str]], reasons: int) -> list[str]:
    """Rows as lines, numbers to the right. A row whose cells after `reasons` are empty has words there, which may be
    longer than the column."""
    words = [not any(row[reasons + 1 : reasons + 3]) and number > 0 for number, row in enumerate(rows)]
    widths = [
        max(len(row[i]) for row, is_words in zip(rows, words, strict=True) if not is_words or i < reasons)
        for i in range(len(rows[0]))
    ]
    lines = []
    for row, is_words in zip(rows, words, strict=True):
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        if is_words:
            cells = [*cells[:reasons], row[reasons], row[-1]]
        elif row[-1]:
            cells[-1] = row[-1]
        lines.append("  ".join(cell for cell in cells if cell).rstrip())
    return lines


def _spread(times: Any) -> str:
    spread = f" ({digits(times.low * 1e3)}-{digits(times.high * 1e3)})" if times.count > 1 else ""
    return f"{digits(times.median * 1e3)}{spread}"


def numbers_of(measured: MeasuredPlan) -> dict[str, Any]:
    """For format=json: seconds and bytes."""
    return {
        "validations": measured.validations,
        "left_out": measured.left_out,
        "own": _numbers(measured, measured.own),
        "layouts": [_numbers(measured, other) for other in measured.others],
    }


def _numbers(measured: MeasuredPlan, one: Measured) -> dict[str, Any]:
    layout = asdict(one.layout) | {"micro_batch": one.layout.micro_batch}
    if one.found is None or one.times is None:
        return layout | {"why": one.why}
    parts = measured.parts(one) if not measured.grows or one is measured.own else None
    return layout | {
        "seconds_a_step": asdict(one.times),
        "seconds_a_validation": one.found["validation"],
        "seconds_a_save": one.found["saving"],
        "seconds": None if parts is None else parts | {"training": sum(parts.values())},
        "memory_bytes": one.found["memory"],
        "threads": one.found["threads"],
        "on_gpu": one.found["on_gpu"],
    }
