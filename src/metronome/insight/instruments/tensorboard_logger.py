"""Lightning's TensorBoardLogger, which writes a step's scalars as one event."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

from metronome.insight.instruments.log_points import GROUP

# Of the groups of tags TensorBoard opens the first two by name; this one would be among them, and says nothing there.
_RENAMED = {"epoch": f"{GROUP}/epoch"}


class TensorBoard(TensorBoardLogger):
    """As Lightning's, with the scalars of a call in one event: five cost little more than one, and the files are
    smaller. What Lightning logs as `epoch` is called `watch/epoch`, which comes after the losses.

    Args: those of Lightning's logger.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # pyright: ignore
        if any(isinstance(value, Mapping) for value in metrics.values()):
            super().log_metrics(dict(metrics), step)
            return
        prefix = f"{self._prefix}{self.LOGGER_JOIN_CHAR}" if self._prefix else ""
        named = {f"{prefix}{name}": value for name, value in metrics.items()}
        values = [Summary.Value(tag=_RENAMED.get(name, name), simple_value=float(v)) for name, v in named.items()]
        self.experiment._get_file_writer().add_summary(Summary(value=values), step)  # pyright: ignore
