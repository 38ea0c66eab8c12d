"""A checkpoint on each host, where they share no disk."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from metronome.units import InputError

log = logging.getLogger("metronome")

_PATHS = ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path")


def check_copies(strategy: Any) -> None:
    """Raises InputError for a strategy whose processes have parts of a checkpoint each. Before they have a group, which
    does not end in order with an error."""
    if not isinstance(strategy, DDPStrategy):
        raise InputError(
            f"the hosts share no disk for the run's folder, and with {type(strategy).__name__} a checkpoint has parts "
            "of all of them; put the run on a disk that all see: hydra.run.dir=<folder there> (storage= is of no help: "
            "it keeps the first host's folder)"
        )


class OnEachHost(Callback):
    """Has each host keep what the first process writes: with DDP all processes have the same to write.

    Args:
        first: the run's folder on the first host, whose paths Lightning hands to all.
        here: on this host.
        is_keeper: whether this process writes there; the first process does so anyway.
    """

    def __init__(self, first: Path, here: Path, is_keeper: bool) -> None:
        self.first, self.here, self.is_keeper = first, here, is_keeper
        self._is_in_place = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self.is_keeper and not self._is_in_place:
            self._write_here_too(trainer.strategy)
        self._is_in_place = True

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # By now Lightning has given all the paths of the first process, and what a checkpoint knows is restored.
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                for name in _PATHS:
                    setattr(callback, name, self._moved(getattr(callback, name)))
                callback.best_k_models = {self._moved(path): score for path, score in callback.best_k_models.items()}

    def _moved(self, path: Any) -> Any:
        if path and Path(path).is_relative_to(self.first):
            return str(self.here / Path(path).relative_to(self.first))
        return path

    def _write_here_too(self, strategy: Any) -> None:
        save, remove = strategy.save_checkpoint, strategy.remove_checkpoint

        def save_here_too(checkpoint: Any, filepath: Any, storage_options: Any = None) -> None:
            save(checkpoint, filepath, storage_options)
            try:
                strategy.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
            except (OSError, RuntimeError) as error:  # PyTorch's writer says RuntimeError where the disk said OSError
                log.error("this host has no copy of checkpoint %s: %s", filepath, error)

        def remove_here_too(filepath: Any) -> None:
            remove(filepath)
            strategy.checkpoint_io.remove_checkpoint(filepath)

        strategy.save_checkpoint, strategy.remove_checkpoint = save_here_too, remove_here_too
