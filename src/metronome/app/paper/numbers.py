"""A plan on paper as plain numbers, for format=json: seconds, bytes, parts of 1."""

from dataclasses import asdict
from math import inf
from typing import Any

from metronome.app.paper.story import OnPaper


def numbers_of(found: OnPaper) -> dict[str, Any]:
    """Seconds and bytes; None where something is not known, or without end."""
    paper, time, saves, counted = found.paper, found.time, found.saves, found.counted
    saving, rate = saves.saving, None if time is None else found.plan.batch_size / time.step
    goodput = saving.goodput(saves.every) if saves.every < inf else 1.0
    run = None if time is None or time.steps is None else time.steps * time.step
    return {
        "devices": paper.devices,
        "hosts": paper.hosts,
        "layout": asdict(found.layout),
        "parameters": sum(weight.kept.bytes // weight.kept.itemsize for weight in counted.weights),
        "optimizer": counted.optimizer,
        "counted_without_data": counted.is_fake,
        "memory_bytes": asdict(found.memory.kept)
        | {"activations": found.memory.work, "batch": found.memory.batch, "all": found.memory.total},
        "room_bytes": paper.room,
        "fits": {"does": found.memory.total <= paper.room, "samples": found.fits, "accumulate_grad_batches": found.cut},
        "flop_a_sample": counted.flops,
        "tokens_a_sample": counted.tokens,
        "seconds_a_step": None
        if time is None
        else {
            "micro_batch": time.micro_batch,
            "rest": time.rest,
            "how": time.how,
            "exchange": time.exchange.seconds,
            "waited_for": time.exchange.waited,
            "layers": time.layers.seconds,
            "step": time.step,
        },
        "samples_per_second": rate,
        "tokens_per_second": None if rate is None or counted.tokens is None else rate * counted.tokens,
        "seconds": run,
        "checkpoint": {
            "bytes": saves.bytes,
            "seconds": saves.seconds,
            "held": saving.held,
            "save_every": _known(saves.every),
            "young": _known(saving.young),
            "daly": None if saving.between_failures == inf else saving.daly,
        },
        "failures": {
            "seconds_between": _known(saving.between_failures),
            "goodput": goodput,
            "losses": saving.losses(saves.every) if saves.every < inf else {},
            "simulated": None if saves.simulated is None else asdict(saves.simulated),
            "seconds_with_failures": None if run is None or not goodput else run / goodput,
        },
        "order_checked": None if found.order is None else asdict(found.order),
        "notes": found.notes,
    }


def _known(seconds: float) -> float | None:
    return None if seconds == inf else seconds
