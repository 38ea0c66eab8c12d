"""What the modules have logged so far, as plain data: a checkpoint keeps it, so that a resumed epoch has whole means.

Each device logs for itself, so a checkpoint holds what each of them had. On as many devices each takes back its own,
bit for bit; on another number of them the first takes the sum of all, which gives the same means to rounding.
"""

from typing import Any

import lightning as L
import torch
from torchmetrics import Metric

from metronome.training.lightning_private import LoggedMetadata, LoggedSync, ResultMetricBase, logger_connector
from metronome.training.logged.metrics import joined_metrics, load_metric, moved_to, plain_copy
from metronome.training.logged.results import Results
from metronome.training.place import data_devices, data_rank, one_of_each

_REDUCTIONS: dict[str, Any] = {
    "mean": torch.mean, "sum": torch.sum, "max": torch.max, "min": torch.min,
    "builtins.sum": sum, "builtins.max": max, "builtins.min": min,
}  # fmt: skip
_META = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx",
         "dataloader_idx", "metric_attribute")  # fmt: skip
_LATEST = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")


def results_state(trainer: L.Trainer, results: Results, metrics: dict[str, Any]) -> dict[str, Any]:
    """The training's logged values of the epoch so far, and the latest of all. All devices must call it together.

    `metrics` are the module's torchmetrics, from `metrics_state`.
    """
    results.arrive()
    values = {key: _value_state(metric) for key, metric in results.items() if not metric.has_reset}
    mine = {"values": values, "metrics": metrics}
    devices: list[Any] = [mine]
    if trainer.world_size > 1 and torch.distributed.is_initialized():
        devices = [None] * trainer.world_size
        torch.distributed.all_gather_object(devices, mine)
        devices = one_of_each(trainer, devices)
    latest = {name: plain_copy(dict(getattr(logger_connector(trainer), name))) for name in _LATEST}
    return {"devices": devices, "latest": latest}


def load_results(trainer: L.Trainer, results: Results, state: dict[str, Any]) -> None:
    """Take back what `results_state` gave, on this device of the training that goes on."""
    device, devices = trainer.strategy.root_device, state["devices"]
    for name in _LATEST:
        setattr(logger_connector(trainer), name, {k: moved_to(v, device) for k, v in state["latest"][name].items()})
    if len(devices) == data_devices(trainer):
        mine = devices[data_rank(trainer)]
        values, metrics = mine["values"], mine["metrics"]
    else:
        values, metrics = _joined_values(devices), joined_metrics(devices, trainer.lightning_module)
        if data_rank(trainer) > 0:
            values, metrics = {k: _emptied(v) for k, v in values.items() if not v["rank_zero_only"]}, {}
    modules: dict[str, Any] = dict(trainer.lightning_module.named_modules())
    for name, metric in metrics.items():
        if isinstance(module := modules.get(name), Metric):
            load_metric(module, metric)
    for key, value in values.items():
        metric = _result_metric(trainer, value, modules)
        if metric is not None:
            results[key] = metric.to(device)


# ---- values given to self.log ------------------------------------------------------------------------


def _value_state(metric: ResultMetricBase) -> dict[str, Any]:
    meta = metric.meta
    builtin = getattr(meta.reduce_fx, "__module__", None) == "builtins"
    state = {name: getattr(meta, name) for name in _META} | {
        "reduce_fx": f"builtins.{meta.reduce_fx.__name__}" if builtin else meta.reduce_fx.__name__,
        "rank_zero_only": meta.sync.rank_zero_only,
        "step_value": plain_copy(metric._forward_cache),
    }
    if metric.is_tensor:
        state["value"] = plain_copy(metric.value)
        state["weight"] = plain_copy(metric.cumulated_batch_size) if meta.is_mean_reduction else None
    return state


def _result_metric(trainer: L.Trainer, state: dict[str, Any], modules: dict[str, Any]) -> ResultMetricBase | None:
    meta = LoggedMetadata(**{name: state[name] for name in _META}, reduce_fx=_REDUCTIONS[state["reduce_fx"]])
    # As LightningModule.log makes it, since the two are compared when the value is logged again.
    meta.sync = LoggedSync(fn=trainer.strategy.reduce, _should=False, rank_zero_only=state["rank_zero_only"])
    metric = ResultMetricBase(meta, "value" in state)
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
