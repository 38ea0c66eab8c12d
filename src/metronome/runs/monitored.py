"""The metric that a configuration monitors: by it the best checkpoint is chosen, and a search over runs."""

from typing import Any

from metronome.units import direction_of


def monitored_in(config: dict[str, Any]) -> tuple[str | None, str | None]:
    """The metric by which the best checkpoint is chosen, and its mode as far as it is given; None where nothing is.

    >>> checkpoint = {"_target_": "metronome.training.Checkpoint", "monitor": "val/acc", "mode": None}
    >>> monitored_in({"callbacks": {"checkpoint": checkpoint}, "monitor": "val/acc", "mode": "max"})
    ('val/acc', 'max')
    """
    callbacks = config.get("callbacks")
    for name, entry in callbacks.items() if isinstance(callbacks, dict) else ():
        if not isinstance(entry, dict) or not entry.get("monitor"):
            continue
        if name == "checkpoint" or str(entry.get("_target_")).endswith("Checkpoint"):
            metric = str(entry["monitor"])
            return metric, entry.get("mode") or (config.get("mode") if metric == config.get("monitor") else None)
    return None, None


def mode_in(config: dict[str, Any], metric: str) -> str | None:
    """`min` or `max` for a metric, as a configuration gives it or the metric's name tells; None where neither does."""
    monitored, mode = monitored_in(config)
    if metric == monitored and mode is not None:
        return mode
    return (config.get("mode") if metric == config.get("monitor") else None) or direction_of(metric)
