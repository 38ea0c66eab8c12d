"""The values of a configuration, by their whole names. Imports nothing."""

from typing import Any

# What the result of a run follows from, beside the limits of the trainer.
DECIDING = ("data", "model", "optimizer", "scheduler", "budget", "seed")


def flat(name: str, content: Any) -> dict[str, Any]:
    """The values in a nesting of dicts, each under its whole name.

    >>> flat("data", {"batch_size": 64, "batch_growth": {"factor": 2}})
    {'data.batch_size': 64, 'data.batch_growth.factor': 2}
    """
    if not isinstance(content, dict):
        return {name: content}
    return {key: value for part in content for key, value in flat(f"{name}.{part}", content[part]).items()}


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The values that the result of a run follows from."""
    found = {key: value for group in DECIDING for key, value in flat(group, config.get(group)).items()}
    limits = flat("trainer", config.get("trainer"))
    return found | {key: value for key, value in limits.items() if key.startswith("trainer.max_")}
