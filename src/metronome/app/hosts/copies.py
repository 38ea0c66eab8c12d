"""A checkpoint on each host, where they share no disk."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from metronome.units import InputError

log = logging.getLogger("metronome")


def keep_copies(trainer: L.Trainer, is_keeper: bool) -> None:
    """Have the first process of each other host write what the first process writes: with DDP all have the same.

    Raises:
        InputError: for a strategy whose processes have parts of it each.
    """
    strategy: Any = trainer.strategy
    if not isinstance(strategy, DDPStrategy):
        raise InputError(
            "the hosts share no disk for the run's folder, and with trainer.strategy="
            f"{type(strategy).__name__} a checkpoint has parts from all of them; put runs/ on a disk that all see, or "
            "give hydra.run.dir= on one"
        )
    if not is_keeper:
        return
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
