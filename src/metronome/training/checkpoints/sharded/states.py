"""The state of an optimizer as one device has it, by the number of a weight, and by its name, as sharded ones do."""

from typing import Any


def by_index(state: dict[str, Any]) -> dict[str, Any]:
    """The same by numbers, as `Optimizer.state_dict()` has it: they count the weights of all groups in their order."""
    names = names_in(state)
    if not any(isinstance(name, str) for name in names):
        return state
    number = {name: index for index, name in enumerate(names)}
    return state | {
        "state": {number[name]: value for name, value in state["state"].items()},
        "param_groups": [
            group | {"params": [number[name] for name in group["params"]]} for group in state["param_groups"]
        ],
    }


def by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The same by names; `names` are those of the weights of all groups in their order."""
    return state | {
        "state": {names[number]: value for number, value in state["state"].items()},
        "param_groups": [
            group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


def names_in(state: dict[str, Any]) -> list[Any]:
    """Names, or numbers, of the weights of all groups in their order."""
    return [name for group in state["param_groups"] for name in group["params"]]
