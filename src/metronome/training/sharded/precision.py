"""The flags of a Trainer whose strategy spreads weights: precisions that Lightning does not know how to take there."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.plugins.precision import DoublePrecision

from metronome.training.sharded.strategy import ShardedStrategy
from metronome.units import InputError


def with_precision(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A Trainer's flags with `precision=64-true` as a plugin, by which Lightning takes it for this strategy too.

    Raises:
        InputError: for `16-mixed`, whose scaler looks at one device's gradients.
    """
    precision, flags = flags.get("precision"), dict(flags)
    if not isinstance(flags.get("strategy"), ShardedStrategy):
        return flags
    if precision in ("16-mixed", "transformer-engine", "transformer-engine-float16"):
        raise InputError(
            f"trainer.precision={precision} does not go with sharded weights; use bf16-mixed, bf16-true, 32-true or "
            "64-true"
        )
    if precision in ("64-true", "64", 64):
        plugins = flags.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        return flags | {"precision": None, "plugins": [*plugins, DoublePrecision()]}
    return flags
