"""The values of a configuration that decide what a run is: where they are the same, so is its result."""

from typing import Any

from metronome.units import direction_of

DECIDING = ("data", "model", "optimizer", "scheduler", "budget", "seed")
LIMITS = "trainer.max_"  # what these names begin with ends a run too
# Options that runs from before there were any did not name, with the values that mean what those did.
_SAID_LATER = {"data.on_device": "auto", "optimizer.noise_scale": None}
_COPIED = ("optimizer", "scheduler")


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The deciding values by their whole names. Runs that differ in `seed` alone are samples of the same thing.

    >>> sorted(deciding({"data": {"batch_size": 8}, "trainer": {"max_steps": 5, "devices": 2}}))
    ['budget', 'data.batch_size', 'model', 'optimizer', 'scheduler', 'seed', 'trainer.max_steps']
    """
    groups = {group: config.get(group) for group in DECIDING}
    groups["model"] = _without_copies(config)
    found = {key: value for group, content in groups.items() for key, value in flat(group, content).items()}
    if found.get("data.batch_growth.factor", 0) is None:  # what once was one value
        found = {key: value for key, value in found.items() if not key.startswith("data.batch_growth.")}
        found["data.batch_growth"] = None
    found = {key: value for key, value in found.items() if key not in _SAID_LATER or value != _SAID_LATER[key]}
    found = without_known_mode(found)
    trainer = flat("trainer", config.get("trainer"))
    return found | {key: value for key, value in trainer.items() if key.startswith(LIMITS)}


def values_in_words(config: dict[str, Any]) -> list[str]:
    """The deciding values that are the same on each machine that a run is on: not where its files are, nor how many
    processes read them.

    >>> values_in_words({"data": {"batch_size": 8, "folder": "/disk/images", "num_workers": 2}, "seed": 1})[:1]
    ['data.batch_size=8']
    """
    found = deciding(config)
    return [
        f"{key}={value}" for key, value in found.items() if "/" not in str(value) and not key.endswith("num_workers")
    ]


def without_known_mode(values: dict[str, Any]) -> dict[str, Any]:
    """The same without `scheduler.mode`, where it is the one that its metric has: it may be said or not.

    >>> without_known_mode({"scheduler.monitor": "val/acc", "scheduler.mode": "max"})
    {'scheduler.monitor': 'val/acc'}
    """
    told = direction_of(str(values.get("scheduler.monitor")))
    return {key: value for key, value in values.items() if key != "scheduler.mode" or value not in (None, told)}


def flat(name: str, content: Any) -> dict[str, Any]:
    """The values in a nesting of dicts, each under its whole name.

    >>> flat("data", {"batch_size": 64, "batch_growth": {"factor": 2}})
    {'data.batch_size': 64, 'data.batch_growth.factor': 2}
    """
    if not isinstance(content, dict):
        return {name: content}
    return {key: value for part in content for key, value in flat(f"{name}.{part}", content[part]).items()}


def _without_copies(config: dict[str, Any]) -> Any:
    """The model without what it takes over from other groups (conf/model/base.yaml), resolved or not."""
    model = config.get("model")
    if not isinstance(model, dict):
        return model
    copies = {name: (config.get(name), f"${{{name}}}") for name in _COPIED}
    return {name: value for name, value in model.items() if name not in copies or value not in copies[name]}
