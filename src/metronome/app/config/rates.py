"""The learning rates of a configuration, scaled with the batch size."""

from collections.abc import Callable
from typing import Any

from metronome.units import scaled_rate

_KEYS = ("scale_lr", "base_batch_size", "noise_scale")  # ours, beside the arguments of an optimizer
_IF_SET = ("fused",)  # an argument of some optimizers: given to one only where something is said


def scaled(model: dict[str, Any], batch_size: Callable[[], int]) -> tuple[dict[str, Any], list[str]]:
    """A model's configuration with the rates of its optimizers as they are for `batch_size` samples, and without what
    only says so; and, for each that is another now, its arithmetic in words.

    Args:
        model: of any nesting. Optimizers are the parts that have a `scale_lr`.
        batch_size: asked only where a rate is to be scaled.

    Raises:
        InputError: for a rule that is not known, one without its base or its noise scale, or a rate that is no number.
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
        rate = scaled_rate(lr, rule, size, base, noise := part.get("noise_scale"))  # pyright: ignore
        if rule not in (None, "none"):
            notes.append(f"{lr:g} x {_factor(rule, size, base, noise)} = {rate:.4g}")
        return {key: copy(value) for key, value in _arguments(part)} | ({} if lr is None else {"lr": rate})

    return copy(model), notes


def unscaled(model: dict[str, Any]) -> dict[str, Any]:
    """The same for a model that is not to be trained: rates as they are written."""
    if isinstance(model, dict):
        return {key: unscaled(value) for key, value in (_arguments(model) if "scale_lr" in model else model.items())}
    return [unscaled(value) for value in model] if isinstance(model, list) else model


def _factor(rule: str, size: int, base: Any, noise: Any) -> str:
    """What a rate is multiplied by, in words."""
    if rule == "noise":
        return f"(1 + {noise:g} / {base:,}) / (1 + {noise:g} / {size:,})"
    return f"{size:,} / {base:,}" if rule == "linear" else f"sqrt({size:,} / {base:,})"


def _arguments(optimizer: dict[str, Any]) -> list[tuple[str, Any]]:
    """What an optimizer is given of its configuration."""
    return [
        (key, value) for key, value in optimizer.items() if key not in _KEYS and not (key in _IF_SET and value is None)
    ]
