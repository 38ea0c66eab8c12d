"""The states of a module's torchmetrics: remembered for a while, and kept in checkpoints."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_mean, dim_zero_min, dim_zero_sum
from torchmetrics.wrappers.abstract import WrapperMetric

# What a torchmetric's forward changes for as long as it lasts, besides its states; an error leaves it changed.
_BOOKS = ("_update_count", "_to_sync", "_should_unsync", "_is_synced", "_enable_grad", "compute_on_cpu")


def state_names(metric: Metric) -> list[str]:
    """The attributes that hold what a metric has seen: its states, and tensors that a wrapper keeps beside them."""
    held = [name for name, value in vars(metric).items() if isinstance(value, Tensor) and name[0] != "_"]
    return [*metric._defaults, *(name for name in held if name not in metric._defaults)]


def modules_of(module: nn.Module) -> Iterator[nn.Module]:
    """As `Module.modules()`, which hashes them; the hash of a torchmetric is one of all that it has seen."""
    seen, due = {id(module)}, [module]
    while due:
        yield (module := due.pop())
        for part in reversed(module._modules.values()):
            if part is not None and id(part) not in seen:
                seen.add(id(part))
                due.append(part)


# Of the states that are lists (by the metric's id and their name) all that was in them so far.
ListsSoFar = dict[tuple[int, str], list[Any]]


def remember_metrics(module: nn.Module, lists: ListsSoFar | None = None) -> Callable[[], None]:
    """Remember the states of a module's torchmetrics; what is returned puts them back, as often as it is called.

    Args:
        module: whose they are.
        lists: kept from call to call by who asks at each batch: then of a list that grows only what is new is copied.
    """
    metrics = [m for m in modules_of(module) if isinstance(m, Metric)]
    so_far: ListsSoFar = {} if lists is None else lists
    states = [
        {k: _remembered(vars(m)[k], (id(m), k), so_far) for k in (*state_names(m), *_BOOKS) if k in vars(m)}
        for m in metrics
    ]

    def put_back() -> None:
        for metric, state in zip(metrics, states, strict=True):
            vars(metric).update({k: before() for k, before in state.items()})
            metric._computed = None

    return put_back


def _remembered(state: Any, key: tuple[int, str], lists: ListsSoFar) -> Callable[[], Any]:
    """Gives what a state is now, later."""
    if isinstance(state, Tensor):
        copy = state.detach().clone()  # it is updated in place
        return copy.clone
    if not isinstance(state, list):
        return lambda: state
    # Of a list the tensors stay as they are, and more are added; when the metric is reset it begins anew.
    known, length = lists.get(key, []), len(state)
    if known and (len(known) > length or known[0] is not state[0] or known[-1] is not state[len(known) - 1]):
        known = []
    lists[key] = known
    known.extend(state[len(known) :])
    return lambda: known[:length]


@contextmanager
def metrics_as_before(module: nn.Module) -> Iterator[None]:
    """Put the states of a module's torchmetrics back as they were: the sample seen in between does not count."""
    put_back = remember_metrics(module)
    try:
        yield
    finally:
        put_back()


# ---- in a checkpoint ----------------------------------------------------------------------------------


def metrics_state(module: nn.Module, without: Collection[int]) -> dict[str, dict[str, Any]]:
    """The states of a module's torchmetrics as plain data, but for those with these ids."""
    for collection in module.modules():
        if isinstance(collection, MetricCollection):
            list(collection.items())  # brings the members of a compute group up to date
    metrics = {name: m for name, m in module.named_modules() if isinstance(m, Metric) and _has_seen(m)}
    metrics = {name: metric for name, metric in metrics.items() if id(metric) not in without}
    return {
        name: {"updates": m._update_count, "state": {s: plain_copy(getattr(m, s)) for s in state_names(m)}}
        for name, m in metrics.items()
    }


def _has_seen(metric: Metric) -> bool:
    return metric._update_count > 0 or isinstance(metric, WrapperMetric)  # these leave the counting to what they wrap


def load_metric(metric: Metric, state: dict[str, Any]) -> None:
    """Take back what `metrics_state` gave of one metric."""
    for name, value in state["state"].items():
        setattr(metric, name, moved_to(value, metric.device))
    metric._update_count, metric._computed = state["updates"], None


def joined_metrics(devices: list[dict[str, Any]], module: nn.Module) -> dict[str, dict[str, Any]]:
    """What the metrics of several devices have seen, as if one had seen it all."""
    modules, joined = dict(module.named_modules()), {}
    for name in dict.fromkeys(name for device in devices for name in device["metrics"]):
        states = [device["metrics"][name] for device in devices if name in device["metrics"]]
        if isinstance(metric := modules.get(name), Metric):
            together = {
                s: _joined(metric._reductions.get(s), [state["state"][s] for state in states])
                for s in states[0]["state"]
            }
            joined[name] = {"updates": sum(state["updates"] for state in states), "state": together}
    return joined


def _joined(reduction: Any, values: list[Any]) -> Any:
    """One state of a torchmetric from those of several devices."""
    if isinstance(values[0], list):
        return [part for value in values for part in value]
    if reduction is dim_zero_cat:
        return torch.cat(values)
    for known, combine in (
        (dim_zero_sum, torch.sum), (dim_zero_mean, torch.mean), (dim_zero_max, torch.amax), (dim_zero_min, torch.amin)
    ):  # fmt: skip
        if reduction is known:
            return combine(torch.stack(values), dim=0)
    return values[0]  # nobody but the metric itself knows how to join it


def plain_copy(value: Any) -> Any:
    """A copy without a graph, and without the rest of a storage that it is a view of."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: plain_copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_copy(item) for item in value]
    return value


def moved_to(value: Any, device: torch.device) -> Any:
    """Tensors, and lists of them, on a device; anything else as it is."""
    if isinstance(value, list):
        return [moved_to(item, device) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value
