"""Flags as they are typed, and what a change of one means for the others."""

import re
from math import ceil, log2, sqrt

from metronome.advice.facts import Facts
from metronome.runs.nested import dig

_ADAPTIVE = ("adam", "adamw", "adamax", "nadam", "radam", "adagrad", "rmsprop", "muon")
_BY_SIGN = ("rprop", "lbfgs")


def rounded(value: float) -> str:
    """A number of two digits, as one types it.

    >>> rounded(0.01234), rounded(25.4), rounded(0.00003)
    ('0.012', '25', '3e-05')
    """
    return f"{float(f'{value:.2g}'):.6g}"


def power_of_two(value: float, at_most: float) -> int:
    """The power of two nearest to a number, and not above another."""
    return 2 ** max(0, min(round(log2(max(value, 1))), int(log2(max(at_most, 1)))))


def lr_flag(facts: Facts, factor: float) -> str:
    """Another learning rate; nothing where the run has no key to change it by."""
    return "" if facts.lr is None else f"{facts.lr_key}={rounded(facts.lr * factor)}"


def batch_flags(facts: Facts, size: int, noise_scale: float) -> str:
    """Another batch size, and the rate that goes with it.

    Where `optimizer.scale_lr` is set, the rate follows by itself. Else it is linear in the batch size far below the
    noise scale, and constant far above it (McCandlish et al. 2018, equation 2.6); for Adam and its kin, which divide by
    the size of the gradient, the square root of that (Malladi et al. 2022, arXiv 2205.10287).
    """
    given = f"data.batch_size={size}"
    if facts.lr is None or facts.batch_size is None or facts.optimizer in _BY_SIGN:
        return given
    if dig(facts.config, "optimizer.scale_lr") not in (None, "none"):
        return given
    factor = (1 + noise_scale / facts.batch_size) / (1 + noise_scale / size)
    return f"{given} {lr_flag(facts, sqrt(factor) if facts.optimizer in _ADAPTIVE else factor)}"


def length_flag(facts: Facts, factor: float = 1.0, epochs: int | None = None) -> str:
    """Another length of the training, in the unit in which it was given; nothing where that was a time.

    Args:
        factor: times the length that it had.
        epochs: or so many, where it is in epochs.
    """
    budget, trainer = dig(facts.config, "budget"), dig(facts.config, "trainer") or {}
    if budget is not None:
        text = str(budget).strip().replace("_", "").replace(",", "")
        parts = re.fullmatch(r"(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*(epochs?|steps?|samples?)", text)
        if parts is None:
            return ""
        number, unit = float(parts[1]), parts[2]
        whole = epochs if epochs is not None and unit[:3] == "epo" else max(1, ceil(number * factor))
        return f"budget={whole}{unit[:3].replace('epo', 'epochs').replace('ste', 'steps').replace('sam', 'samples')}"
    if isinstance(steps := trainer.get("max_steps"), int) and steps > 0:
        return f"trainer.max_steps={max(1, ceil(steps * factor))}"
    if isinstance(most := trainer.get("max_epochs"), int) and most > 0:
        return f"trainer.max_epochs={max(1, ceil(most * factor)) if epochs is None else epochs}"
    return ""


def can_be_typed(facts: Facts, flags: str) -> bool:
    """Whether the configuration of the run has the keys, and a batch size there is what a step sees: of a data module
    written elsewhere it may have none, or it may be of one device."""
    for flag in flags.split():
        key = flag.strip("'").partition("=")[0]
        *way, last = key.split(".")
        place = dig(facts.config, ".".join(way)) if way else facts.config
        if not isinstance(place, dict) or last not in place:
            return False
        if key == "data.batch_size":
            given = place[last]
            whole = facts.samples if given == "full" else given
            if whole != facts.batch_size and not facts.batch_grows:
                return False
    return True


def joined(*flags: str) -> str:
    return " ".join(flag for flag in flags if flag)
