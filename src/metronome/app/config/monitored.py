"""The metric that is monitored, in the configuration: `monitor` and `mode` at its top, and what each callback says."""

from typing import Any

from hydra.utils import get_object
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from metronome.training.checkpoints.monitored import put_mode

_WATCHERS = (ModelCheckpoint, EarlyStopping)


def without_open_mode(entry: dict[str, Any]) -> dict[str, Any]:
    """A callback's entry without a mode of null, where that is one to be worked out: Lightning's own take no None."""
    if "mode" not in entry or entry["mode"] is not None or not entry.get("monitor"):
        return entry
    try:
        target = get_object(entry["_target_"])
    except Exception:  # whoever makes it says what is wrong
        return entry
    is_watcher = isinstance(target, type) and issubclass(target, _WATCHERS)
    return {key: value for key, value in entry.items() if key != "mode"} if is_watcher else entry


def leave_mode_open(callback: Any, name: str, entry: dict[str, Any], config: dict[str, Any]) -> None:
    """Mark a callback that was made whose mode nobody has written: Lightning's own would take `min`.

    One that watches the metric at the configuration's top has the mode that is given there.
    """
    if not isinstance(callback, _WATCHERS) or not entry.get("monitor") or entry.get("mode") is not None:
        return
    watcher: Any = callback
    is_main, mode = entry["monitor"] == config.get("monitor"), config.get("mode")
    if is_main and mode is not None:
        put_mode(watcher, mode)
        watcher.open_mode = None
    else:
        watcher.open_mode = "mode" if is_main else f"{'' if 'mode' in entry else '+'}callbacks.{name}.mode"
