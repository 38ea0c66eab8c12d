"""What the modules have logged so far, as plain data: a checkpoint keeps it, so that a resumed epoch has whole means.

Each device logs for itself, so a checkpoint holds what each of them had. On as many devices each takes back its own,
bit for bit; on another number of them the first takes the sum of all, which gives the same means to rounding.
"""

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_mean, dim_zero_min, dim_zero_sum
from torchmetrics.wrappers.abstract import WrapperMetric

from metronome.training.logged.results import Results, state_names

if TYPE_CHECKING:
    from metronome.training.trainer import Trainer

_REDUCTIONS: dict[str, Any] = {
    "mean": torch.mean, "sum": torch.sum, "max": torch.max, "min": torch.min,
    "builtins.sum": sum, "builtins.max": max, "builtins.min": min,
}  # fmt: skip
_META = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx",
         "dataloader_idx", "metric_attribute")  # fmt: skip
_LATEST = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")


def results_state(trainer: "Trainer", metrics: dict[str, Any]) -> dict[str, Any]:
    """The training's logged values of the epoch so far, and the latest of all. All devices must call it together.

    `metrics` are the module's torchmetrics, from `metric_states`.
    """
    values = {key: _value_state(metric) for key, metric in trainer.step_results.items() if not metric.has_reset}
    mine = {"values": values, "metrics": metrics}
    devices: list[Any] = [mine]
    if trainer.world_size > 1:
        devices = [None] * trainer.world_size
        torch.distributed.all_gather_object(devices, mine)
    latest = {name: _plain(dict(getattr(trainer._logger_connector, name))) for name in _LATEST}
    return {"devices": devices, "latest": latest}


def load_results(trainer: "Trainer", state: dict[str, Any]) -> None:
    """Take back what `results_state` gave, on this device of the training that goes on."""
    device, devices = trainer.strategy.root_device, state["devices"]
    for name in _LATEST:
        setattr(trainer._logger_connector, name, {k: _to(v, device) for k, v in state["latest"][name].items()})
    if len(devices) == trainer.world_size:
        mine = devices[trainer.global_rank]
        values, metrics = mine["values"], mine["metrics"]
    else:
        values, metrics = _joined_values(devices), _joined_metrics(devices, trainer.lightning_module)
        if trainer.global_rank > 0:
            values, metrics = {k: _emptied(v) for k, v in values.items() if not v["rank_zero_only"]}, {}
    modules: dict[str, Any] = dict(trainer.lightning_module.named_modules())
    for name, metric in metrics.items():
        if isinstance(module := modules.get(name), Metric):
            _load_metric(module, metric)
    for key, value in values.items():
        metric = _result_metric(trainer, value, modules)
        if metric is not None:
            trainer.step_results[key] = metric.to(device)


# ---- values given to self.log ------------------------------------------------------------------------


def _value_state(metric: _ResultMetric) -> dict[str, Any]:
    meta = metric.meta
    builtin = getattr(meta.reduce_fx, "__module__", None) == "builtins"
    state = {name: getattr(meta, name) for name in _META} | {
        "reduce_fx": f"builtins.{meta.reduce_fx.__name__}" if builtin else meta.reduce_fx.__name__,
        "rank_zero_only": meta.sync.rank_zero_only,
        "step_value": _plain(metric._forward_cache),
    }
    if metric.is_tensor:
        state["value"] = _plain(metric.value)
        state["weight"] = _plain(metric.cumulated_batch_size) if meta.is_mean_reduction else None
    return state


def _result_metric(trainer: "Trainer", state: dict[str, Any], modules: dict[str, Any]) -> _ResultMetric | None:
    meta = _Metadata(**{name: state[name] for name in _META}, reduce_fx=_REDUCTIONS[state["reduce_fx"]])
    # As LightningModule.log makes it, since the two are compared when the value is logged again.
    meta.sync = _Sync(fn=trainer.strategy.reduce, _should=False, rank_zero_only=state["rank_zero_only"])
    metric = _ResultMetric(meta, "value" in state)
    metric._update_count, metric._forward_cache = 1, state["step_value"]
    if "value" in state:
        metric.value = state["value"]
        if state["weight"] is not None:
            metric.cumulated_batch_size = state["weight"]
    elif isinstance(logged := modules.get(meta.metric_attribute or ""), Metric):
        metric.value = logged
    else:
        return None
    return metric


def _joined_values(devices: list[dict[str, Any]]) -> dict[str, Any]:
    """The values of all devices as one: sums of sums, largest of largest."""
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(key for device in devices for key in device["values"]):
        states = [device["values"][key] for device in devices if key in device["values"]]
        joined[key] = dict(states[0])
        if "value" not in states[0]:
            continue
        combine = {"max": torch.maximum, "min": torch.minimum}.get(states[0]["reduce_fx"].split(".")[-1], torch.add)
        for state in states[1:]:
            joined[key]["value"] = combine(joined[key]["value"], state["value"])
            if state["weight"] is not None:
                joined[key]["weight"] = joined[key]["weight"] + state["weight"]
    return joined


def _emptied(state: dict[str, Any]) -> dict[str, Any]:
    """The same value with nothing counted: all devices must know the same names."""
    if "value" not in state:
        return state
    neutral = {"max": float("-inf"), "min": float("inf")}.get(state["reduce_fx"].split(".")[-1], 0.0)
    weight = None if state["weight"] is None else torch.zeros_like(torch.as_tensor(state["weight"]))
    return state | {"value": torch.full_like(state["value"], neutral), "weight": weight}


# ---- torchmetrics of the module -------------------------------------------------------------------------


def metric_states(module: nn.Module, without: Results) -> dict[str, dict[str, Any]]:
    """The states of a module's torchmetrics, but for those logged in a validation, which it empties at its end."""
    emptied = {id(metric.value) for metric in without.values() if not metric.is_tensor}
    for collection in module.modules():
        if isinstance(collection, MetricCollection):
            list(collection.items())  # brings the members of a compute group up to date
    metrics = {name: m for name, m in module.named_modules() if isinstance(m, Metric) and _has_seen(m)}
    metrics = {name: metric for name, metric in metrics.items() if id(metric) not in emptied}
    return {
        name: {"updates": m._update_count, "state": {s: _plain(getattr(m, s)) for s in state_names(m)}}
        for name, m in metrics.items()
    }


def _has_seen(metric: Metric) -> bool:
    return metric._update_count > 0 or isinstance(metric, WrapperMetric)  # these leave the counting to what they wrap


def _load_metric(metric: Metric, state: dict[str, Any]) -> None:
    for name, value in state["state"].items():
        setattr(metric, name, _to(value, metric.device))
    metric._update_count, metric._computed = state["updates"], None


def _joined_metrics(devices: list[dict[str, Any]], module: nn.Module) -> dict[str, dict[str, Any]]:
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


# ---- plain data -------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A copy without a graph, and without the rest of a storage that it is a view of."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_to(item, device) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value
