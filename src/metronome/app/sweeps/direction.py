"""Whether a search is for the least or the greatest value of what is monitored. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from metronome.runs.monitored import mode_in, monitored_in
from metronome.units import InputError


def direction_of_search(config: Any) -> str:
    """`minimize` or `maximize`, as the metric wants it by which the best checkpoint is chosen.

    Raises:
        InputError: where neither the configuration nor the metric's name tells; no trial has been made by then.
    """
    metric, _ = monitored_in(_said(config))
    return "minimize" if metric is None else f"{mode_of(config, metric)}imize"  # without one no trial has a value


def mode_of(config: Any, metric: str) -> str:
    """`min` or `max`, as a composed configuration gives it for a metric, or the metric's name tells.

    Raises:
        InputError: where neither does.
    """
    mode = mode_in(_said(config), metric)
    if mode is None:
        raise InputError(
            f"monitor={metric}: whether lower or higher is better cannot be told from its name; add mode=min or "
            "mode=max"
        )
    return mode


def _said(config: Any) -> dict[str, Any]:
    entries = config.get("callbacks") or {}
    keys = ("_target_", "monitor", "mode")  # others refer to a run's folder, and there is no run yet
    callbacks = {
        name: {key: entries[name].get(key) for key in keys} for name in entries if isinstance(entries[name], Mapping)
    }
    return {"callbacks": callbacks, "monitor": config.get("monitor"), "mode": config.get("mode")}


def check_direction(config: Any, checkpoint: Any) -> None:
    """Of a trial, which knows its metrics, and the callback that keeps its best checkpoint.

    Raises:
        InputError: if the search is for other values than the trial keeps as the best.
    """
    if checkpoint is None or checkpoint.monitor is None:
        return
    given = OmegaConf.to_container(HydraConfig.get().sweeper).get("direction")  # pyright: ignore
    given = getattr(given, "name", given)
    wanted = direction_of_search(config) if str(given).startswith("${") else given
    if wanted in ("minimize", "maximize") and wanted != f"{checkpoint.mode}imize":
        raise InputError(
            f"the search is to {wanted} {checkpoint.monitor}, and its runs keep the {checkpoint.mode}imum as the best; "
            "add mode=min or mode=max, and leave out hydra.sweeper.direction"
        )
