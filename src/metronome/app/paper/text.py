"""A plan on paper as a text of 80 columns: each number with how it was come by."""

from collections.abc import Iterable
from math import inf
from textwrap import wrap

from metronome.app.paper.assumed import assumed
from metronome.app.paper.story import OnPaper
from metronome.units.amounts import digits
from metronome.units.paper.texts import count, days_text, rate_text, sizes_text, whole_number

_WIDTH, _LABEL, _NUMBER = 80, 12, 15
Row = tuple[str, str, str]  # label, number, where it comes from


def text_of(found: OnPaper) -> str:
    """The sections in the order in which one follows from the other, and what was assumed."""
    lines: list[str] = []
    for head, rows in (
        (_head(found), []),
        (f"memory of a device: {sizes_text(found.paper.memory)} (stated)", _memory(found)),
        ("a step", _step(found)),
        ("saves and failures", _saves(found)),
    ):
        lines += ["", *wrap(head, _WIDTH), *_lines(rows)]
        if not rows:  # what is wrong with the plan, before its numbers
            lines += [line for note in found.notes for line in wrap(f"note: {note}", _WIDTH)]
    lines += ["", "assumed"]
    for words in assumed(found):
        lines += wrap(words, _WIDTH, initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines[1:])


HEADS = ["micro-batch", "memory", "fits", "step", "run", "goodput"]


def row_of(found: OnPaper) -> list[str]:
    """The cells of a table of several, under `HEADS`; the run is that with saves and failures."""
    time, saves = found.time, found.saves
    goodput = saves.saving.goodput(saves.every) if saves.every < inf else 1.0
    run = "not known"
    if time is not None and time.steps is not None:
        run = days_text(time.steps * time.step / max(goodput, 1e-12))
    return [
        f"{found.plan.micro_batch_size:,}",
        sizes_text(found.memory.total),
        f"{found.fits:,}",
        "not known" if time is None else days_text(time.step),
        run,
        f"{goodput:.2%}",
    ]


def _lines(rows: Iterable[Row]) -> list[str]:
    lines: list[str] = []
    for label, number, words in rows:
        start = f"  {label:{_LABEL}}{number:>{_NUMBER}}  "
        parts = wrap(words, _WIDTH - len(start), break_long_words=False) or [""]
        lines += [f"{start}{parts[0]}".rstrip(), *(" " * len(start) + part for part in parts[1:])]
    return lines


def _head(found: OnPaper) -> str:
    paper, counted = found.paper, found.counted
    place = f"{count(paper.devices, 'device')} = {count(paper.hosts, 'host')} of {paper.devices_per_host:,}"
    if paper.hosts * paper.devices_per_host != paper.devices:
        place = f"{count(paper.devices, 'device')} on {count(paper.hosts, 'host')}"
    how = "FSDP2 shares the weights out" if found.layout.sharded else "each keeps all weights (DDP)"
    if paper.devices == 1:
        how = "it keeps all weights"
    if found.layout.tensor_parallel > 1:
        how += f"; {found.layout.tensor_parallel} share out each layer"
    numbers = sum(weight.kept.bytes // weight.kept.itemsize for weight in counted.weights)
    order = "" if found.order is None else f". {_order(found)}"
    return f"on paper: {place}; {how}. {whole_number(numbers)} weights, {counted.optimizer}{order}"


def _order(found: OnPaper) -> str:
    assert found.order is not None
    steps = found.order.steps
    which = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]:,} to {steps[-1]:,}"
    return (
        f"Their order was dealt out here to {count(found.plan.devices, 'device')} at {which} of an epoch: each sample "
        "of a batch once"
    )


# ---- memory -----------------------------------------------------------------------------------------------------


def _memory(found: OnPaper) -> list[Row]:
    kept, whole, plan, counted = found.memory.kept, found.whole, found.plan, found.counted
    parts = found.layout.data_parallel if found.layout.sharded else 1

    def of(count: int) -> str:
        share = f" of {sizes_text(count)}, the largest of {parts:,} shares" if parts > 1 else ""
        return f"counted{share}"

    how = "counted without data" if counted.is_fake else "counted on real numbers, few samples at once"
    rate = (found.memory.work - found.memory.fixed) / plan.micro_batch_size
    each = f"{sizes_text(found.memory.fixed)} + {sizes_text(rate)} a sample x {plan.micro_batch_size:,}; {how}"
    rows = [
        ("weights", sizes_text(kept.weights), of(whole.weights)),
        ("gradients", sizes_text(kept.gradients), of(whole.gradients)),
        ("optimizer", sizes_text(kept.optimizer), f"{of(whole.optimizer)}: {counted.optimizer}, after a step"),
    ]
    if kept.buffers:
        rows.append(("buffers", sizes_text(kept.buffers), "counted; whole on each device"))
    if found.layout.sharded and parts > 1:
        sums = (
            "whole gradients, added up until the last micro-batch"
            if plan.accumulate_grad_batches > 1
            else "their gradients"
        )
        rows.append(
            (
                "gathered",
                sizes_text(kept.exchange),
                f"formula: two of {count(counted.units, 'unit')} and the rest, {sums}",
            )
        )
    elif parts == 1 and found.layout.data_parallel > 1:
        rows.append(("buckets", sizes_text(kept.exchange), "formula: DDP's, as large as the gradients"))
    rows += [
        ("activations", sizes_text(found.memory.work), each),
        ("batch", sizes_text(found.memory.batch), "counted: this device's whole share of a batch"),
        ("all", sizes_text(found.memory.total), _fit(found)),
    ]
    return [*rows, _largest(found)]


def _fit(found: OnPaper) -> str:
    room = f"{sizes_text(found.paper.room)} = {sizes_text(found.paper.memory)} less {found.paper.reserve:.0%}"
    return f"{'fits' if found.memory.total <= found.paper.room else 'DOES NOT FIT'} in {room} (stated)"


def _largest(found: OnPaper) -> Row:
    if not found.fits:
        more = "paper.sharding=full" if not found.layout.sharded else "more devices, or paper.tensor_parallel"
        return "fits", "0 samples", f"not one at a time; {more} divides what is kept"
    share = -(-found.plan.batch_size // found.plan.devices)
    words = f"at most in a micro-batch; {count(share, 'sample')} a device and step, so "
    words += f"trainer.accumulate_grad_batches={found.cut}"
    if found.cut == 1 and found.fits > share:
        words = f"at most, of the {share:,} a step: a batch of {found.fits * found.plan.devices:,} is not cut either"
    return "fits", count(found.fits, "sample"), words


# ---- time -------------------------------------------------------------------------------------------------------


def _step(found: OnPaper) -> list[Row]:
    time, plan, paper, counted = found.time, found.plan, found.paper, found.counted
    flops = counted.flops * plan.micro_batch_size
    operations = (
        "operations",
        rate_text(flops, "FLOP"),
        f"counted: both passes of {count(plan.micro_batch_size, 'sample')}",
    )
    if time is None:
        ways = "not known: state paper.flops=400TFLOP/s or paper.step=0.2s, or measure=true"
        return [operations, ("micro-batch", "", ways)]
    how = time.how
    if how.startswith("measured") and paper.speed != 1:
        how += f", / paper.speed {paper.speed:g}"
    if how.startswith("counted"):
        how = f"formula: operations / {rate_text(paper.flops or 0, 'FLOP/s')} (stated)"
    if paper.tensor_parallel > 1 and not how.startswith("stated"):
        how += f" / {paper.tensor_parallel} devices"
    rows = [operations, ("micro-batch", days_text(time.micro_batch), how)]
    k = plan.accumulate_grad_batches
    if time.rest:
        rows.append(("rest", days_text(time.rest), "measured here: the update, data, hooks"))
    if time.exchange.seconds:
        link = f"{rate_text(paper.links.bandwidth, 'B/s')}, {days_text(paper.links.latency)} (stated)"
        rows.append(("exchange", days_text(time.exchange.seconds), f"formula: {time.exchange.formula}, at {link}"))
        beside = "what no computing hides" if paper.overlap else "nothing is computed beside it"
        rows.append(("waited for", days_text(time.exchange.waited), f"formula: {beside}"))
    if time.layers.seconds:
        rows.append(("layers", days_text(time.layers.seconds), f"formula: {time.layers.formula}, waited for"))
    parts = f"{k:,} x micro-batch" + " + rest" * bool(time.rest) + " + waited for" * bool(time.exchange.seconds)
    computing = k * time.micro_batch + time.rest
    rows.append(
        (
            "step",
            days_text(time.step),
            f"{parts + ' + layers' * bool(time.layers.seconds)}: {computing / time.step:.0%} computing",
        )
    )
    rate = plan.batch_size / time.step
    tokens = "" if counted.tokens is None else (
        f"; {rate_text(rate * counted.tokens, 'tokens/s')}, {digits(counted.tokens)} a sample in the batch looked at"
    )  # fmt: skip
    rows.append(("speed", rate_text(rate, "samples/s"), f"formula: batch / step{tokens}"))
    return [*rows, *_whole_run(found)]


def _whole_run(found: OnPaper) -> list[Row]:
    time = found.time
    assert time is not None
    if time.steps is None:
        return [("run", "no end", "nothing ends it; give a budget")]
    seconds = time.steps * time.step
    return [("run", days_text(seconds), f"{count(time.steps, 'step')}, without saves, validations and failures")]


# ---- saves ------------------------------------------------------------------------------------------------------


def _saves(found: OnPaper) -> list[Row]:
    paper, saves, time = found.paper, found.saves, found.time
    saving, mean = saves.saving, paper.between_failures
    writers = "one host writes" if saves.writers == 1 else f"{saves.writers:,} hosts write"
    storage = f"{writers}, {rate_text(paper.storage, 'B/s')} each"
    if saves.writers > 1:
        storage += f", {rate_text(paper.all_storage, 'B/s')} together"
    rows = [
        ("checkpoint", sizes_text(saves.bytes), "counted: weights, buffers and the optimizer's state"),
        ("written in", days_text(saves.seconds), f"formula: {storage} (stated)"),
    ]
    if paper.background:
        rows.append(
            (
                "held up",
                days_text(saving.held),
                f"formula: to the host's memory at {rate_text(paper.copy, 'B/s')} (stated)",
            )
        )
    else:
        rows.append(("held up", days_text(saving.held), "training waits until it is written (stated)"))
    if mean == inf:
        every = "no failures stated, so none is needed" if paper.save_every is None else "stated"
        rows.append(("save every", "" if saves.every == inf else days_text(saves.every), every))
        return rows
    rows.append(("failures", days_text(mean), f"between two, in the mean: {paper.words} an hour (stated)"))
    steps = "" if time is None else f"{count(max(1, round(saves.every / time.step)), 'step')}; "
    how = (
        "stated"
        if paper.save_every is not None
        else f"formula: the best by Daly 2006 ({days_text(saving.daly)}); Young 1974: {days_text(saving.young)}"
    )
    if paper.save_every is None and saves.every > saving.daly:
        how += ", but no sooner than one is written or a step made"
    rows.append(("save every", days_text(saves.every), steps + how))
    losses = {name: part for name, part in saving.losses(saves.every).items() if part >= 5e-5}
    lost = ", ".join(f"{part:.2%} {name}" for name, part in losses.items())
    rows.append(("goodput", f"{saving.goodput(saves.every):.2%}", f"formula; the rest: {lost}"))
    if saves.simulated is not None:
        made = saves.simulated
        words = f"+- {digits(200 * made.error, 1)}%: {made.runs:,} runs of {days_text(made.work)}"
        words += f", {made.failures:,} failures"
        rows.append(("simulated", f"{made.goodput:.2%}", words))
    if time is not None and time.steps is not None:
        seconds = time.steps * time.step / max(saving.goodput(saves.every), 1e-12)
        rows.append(("run", days_text(seconds), "with saves and failures: run / goodput"))
    return rows
