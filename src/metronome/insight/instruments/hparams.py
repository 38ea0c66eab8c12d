"""What a run was asked for, and what came of it, for TensorBoard's HParams tab: a sweep's runs in one table."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from metronome.insight.instruments.log_points import log_scalars
from metronome.training import Trainer

Value = str | bool | int | float
# Their file's name: the first of a run by the alphabet. TensorBoard goes from file to file and never back.
_FILE = "events.out.tfevents.0.hparams"


class HParams(Callback):
    """A row of TensorBoard's HParams tab for the run: its choices, the best value of what is monitored, and the last
    ones of the validation and of the test, which are of the best checkpoint.

    At each validation it logs `<monitored>_best`, the best value so far. What is monitored, and whether less is better,
    is as the checkpoint callback says, else `val/loss`.

    The row is in an event file of its own, which each start writes anew: a run that takes another one's curves along
    is not to be listed with the other one's choices. It is there before the first curve, with the metrics that a module
    of its kind is known to have; where a validation shows others, it is written again.

    Args:
        values: the run's choices by name; the app puts those of its configuration here if there are none.
        swept: the names of those that a sweep varies; TensorBoard shows these columns first. Also from the app.
    """

    def __init__(self, values: Mapping[str, Value] | None = None, swept: Sequence[str] = ()) -> None:
        self.values, self.swept = dict(values or {}), tuple(swept)
        self._best: float | None = None
        self._listed: list[str] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._best, self._listed = None, []
            validated = ["val/acc"] if isinstance(getattr(pl_module, "num_classes", None), int) else []
            self._write(trainer, ["val/loss", *validated])

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = state_dict["best"]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not isinstance(trainer, Trainer) or trainer.state.fn != TrainerFn.FITTING:
            return
        name, sign = _monitored(trainer)
        if name in trainer.callback_metrics:
            value = float(trainer.callback_metrics[name])
            if math.isfinite(value) and (self._best is None or sign * value < sign * self._best):
                self._best = value
            if self._best is not None:
                log_scalars(trainer, {f"{name}_best": self._best})
        self._write(trainer, sorted(metric for metric in trainer.callback_metrics if metric.startswith("val")))

    def _write(self, trainer: L.Trainer, validated: Sequence[str]) -> None:
        """The row, with these metrics of a validation, and those of the test that are called alike."""
        monitored = _monitored(trainer)[0]
        names = [f"{monitored}_best", *sorted(validated), *(f"test{name[3:]}" for name in sorted(validated))]
        if names == self._listed or not trainer.is_global_zero or not self.values:
            return
        self._listed = names
        experiment, *rest = hparams(self.values, dict.fromkeys(names, 0.0))
        summaries = [_with_swept(experiment, self.swept), *rest]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                _write_events(Path(logger.log_dir), summaries)


def _write_events(folder: Path, summaries: Sequence[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    now, aside = time.time(), folder / "hparams.part"
    with open(aside, "wb") as file:
        events = RecordWriter(file)
        events.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for summary in summaries:
            events.write(Event(wall_time=now, summary=summary).SerializeToString())
    os.replace(aside, folder / _FILE)


def _with_swept(experiment: Any, swept: Sequence[str]) -> Any:
    """The same summary, with a mark on the columns that a sweep varies."""
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in swept
    plugin.content = content.SerializeToString()
    return experiment


def _monitored(trainer: L.Trainer) -> tuple[str, int]:
    """The metric, and 1 if less of it is better, -1 if more."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            return callback.monitor, 1 if callback.mode == "min" else -1
    return "val/loss", 1
