"""Lightning's TensorBoardLogger, which writes a step's scalars as one event."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

from metronome.insight.instruments.log_points import GROUP

# TensorBoard sorts groups of tags by name and opens the first two; these would be among them, before the losses.
_LAST = ("epoch", "lr")
_LAST_OF_SEVERAL = ("lr/", "lr-")  # of parameter groups, and as Lightning's monitor of rates names them


class TensorBoard(TensorBoardLogger):
    """As Lightning's, with the scalars of a call in one event: five cost little more than one, and the files are
    smaller. `epoch`, which Lightning logs, and the learning rate `lr` are called `watch/epoch` and `watch/lr` here, and
    so come after the losses.

    Args: those of Lightning's logger.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # pyright: ignore
        if any(isinstance(value, Mapping) for value in metrics.values()):
            super().log_metrics(dict(metrics), step)
            return
        prefix = f"{self._prefix}{self.LOGGER_JOIN_CHAR}" if self._prefix else ""
        named = {f"{prefix}{name}": value for name, value in metrics.items()}
        values = [Summary.Value(tag=_tag(name), simple_value=float(value)) for name, value in named.items()]
        self.experiment._get_file_writer().add_summary(Summary(value=values), step)  # pyright: ignore


def _tag(name: str) -> str:
    return f"{GROUP}/{name}" if name in _LAST or name.startswith(_LAST_OF_SEVERAL) else name
