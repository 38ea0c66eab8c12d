"""The learning rates of a configuration, scaled with the batch size."""

from collections.abc import Callable
from typing import Any

from metronome.units import scaled_rate

_KEYS = ("scale_lr", "base_batch_size")  # ours, beside the arguments of an optimizer
_IF_SET = ("fused",)  # an argument of some optimizers: given to one only where something is said


def scaled(model: dict[str, Any], batch_size: Callable[[], int]) -> tuple[dict[str, Any], list[str]]:
    """A model's configuration with the rates of its optimizers as they are for `batch_size` samples, and without what
    only says so; and, for each that is another now, its arithmetic in words.

    Args:
        model: of any nesting. Optimizers are the parts that have a `scale_lr`.
        batch_size: asked only where a rate is to be scaled.

    Raises:
        InputError: for a rule that is not known, one without its base, or a rate that is no number.
    """
    notes: list[str] = []

    def copy(part: Any) -> Any:
        if isinstance(part, list):
            return [copy(value) for value in part]
        if not isinstance(part, dict):
            return part
        if "scale_lr" not in part:
            return {key: copy(value) for key, value in part.items()}
        rule, base, lr = part["scale_lr"], part.get("base_batch_size"), part.get("lr")
        size = 1 if rule in (None, "none") or base is None else batch_size()
        rate = scaled_rate(lr, rule, size, base)  # pyright: ignore
        if rule not in (None, "none"):
            ratio = f"{size:,} / {base:,}"
            notes.append(f"{lr:g} x {ratio if rule == 'linear' else f'sqrt({ratio})'} = {rate:.4g}")
        return {key: copy(value) for key, value in _arguments(part)} | ({} if lr is None else {"lr": rate})

    return copy(model), notes


def unscaled(model: dict[str, Any]) -> dict[str, Any]:
    """The same for a model that is not to be trained: rates as they are written."""
    if isinstance(model, dict):
        return {key: unscaled(value) for key, value in (_arguments(model) if "scale_lr" in model else model.items())}
    return [unscaled(value) for value in model] if isinstance(model, list) else model


def _arguments(optimizer: dict[str, Any]) -> list[tuple[str, Any]]:
    """What an optimizer is given of its configuration."""
    return [
        (key, value) for key, value in optimizer.items() if key not in _KEYS and not (key in _IF_SET and value is None)
    ]
