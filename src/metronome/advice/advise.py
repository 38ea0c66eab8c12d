"""All rules on one run, and what they have to say, what matters most first."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from metronome.advice.advice import Advice
from metronome.advice.facts import Facts
from metronome.advice.flags import can_be_typed
from metronome.advice.rules import batch_and_noise as batch
from metronome.advice.rules import length, machine, rate
from metronome.runs.nested import dig

RULES: tuple[Callable[[Facts], Advice | None], ...] = (
    length.failed, rate.diverged, rate.never_came_back, rate.oscillates, rate.rate_too_small,
    batch.signs_of_noise, batch.norms_of_few, batch.batch_too_small, batch.batch_too_large,
    length.over_fits, length.learns_little, length.still_falls, length.stays_high,
    machine.waits_for_data, machine.validates_long, machine.overhead, machine.finer_than_needed, batch.uneven_devices,
    machine.machine_is_busy, machine.threads_that_do_not_pay, batch.tiny_last_batch, machine.idle_memory,
)  # fmt: skip
# Of a run that is to learn a few batches by heart (trainer.overfit_batches), to see whether it can.
OF_FEW_BATCHES = (
    length.failed, rate.diverged, rate.never_came_back, rate.oscillates, rate.rate_too_small, length.learns_little,
    length.still_falls, length.stays_high,
)  # fmt: skip

STAYS = "the training loss stays high"
# What explains another: where the first is there, the others say the same, or what follows from it.
_EXPLAINS = {
    "the run failed": None,  # all
    "the loss diverged": None,
    "the loss jumped away and hardly came back": None,
    "the loss oscillates": ("over-fitting", "under-fitting", "the loss is still falling", STAYS, "the batch is far"),
    "the learning rate is far too small": (
        "the loss is still falling",
        "under-fitting",
        STAYS,
        "the batch is far above",
    ),
    "the batch is far below": ("steps are dominated", "most of the memory is idle", "the loss is still", STAYS),
    "the batch is far above": (STAYS,),
    "Rprop on mini-batches": ("the loss is still falling", "under-fitting", STAYS),
    "L-BFGS on mini-batches": (STAYS,),
    "BatchNorm on micro-batches": (STAYS,),
    "over-fitting": ("the batch is far above", "the batch is far below", STAYS),
    "under-fitting": (STAYS,),
    "the loss is still falling": (STAYS,),
}
_OF_TIME = ("steps wait", "validation takes", "the machine", "more threads", "accumulation is", "most of the memory")


def advise(result: dict[str, Any], config: dict[str, Any]) -> list[Advice]:
    """What there is to say of a run, from its result.json and config.yaml; nothing for a healthy one.

    A rule that cannot read what it needs says nothing.
    """
    facts = Facts.of(result, config)
    rules = [rule for rule in RULES if rule in OF_FEW_BATCHES or not dig(config, "trainer.overfit_batches")]
    found = [advice for rule in rules if (advice := _safely(rule, facts)) is not None]
    found.sort(key=lambda advice: -advice.weight)
    kept: list[Advice] = []
    for advice in found:
        if not any(_explains(earlier, advice) or _contradicts(earlier, advice) for earlier in kept):
            kept.append(advice)
    return kept


def _safely(rule: Callable[[Facts], Advice | None], facts: Facts) -> Advice | None:
    try:
        said = rule(facts)
        if said is not None and said.flags and not can_be_typed(facts, said.flags):
            return replace(said, flags="")
        return said
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError):
        return None  # of a result that is damaged, or written by hand


def _contradicts(first: Advice, second: Advice) -> bool:
    """Whether both set a key: both cannot be typed, and the first matters more."""
    one, other = ({flag.partition("=")[0] for flag in advice.flags.split()} for advice in (first, second))
    return bool(one & other)


def _explains(first: Advice, second: Advice) -> bool:
    key = next((key for key in _EXPLAINS if first.symptom.startswith(key)), "")
    if not key:
        return False
    follows = _EXPLAINS[key]
    if follows is None:
        return not second.symptom.startswith(_OF_TIME)
    return second.symptom.startswith(follows)
