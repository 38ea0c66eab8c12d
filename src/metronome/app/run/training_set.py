"""The training set at the end: its loss at the very weights that are tested, so that the two can be compared."""

from contextlib import contextmanager
from typing import Any

from metronome.data import DataModule

STAGE = "train_set/"  # what the names of its metrics begin with, where those of a test have `test/`


def metrics_of_training_set(trainer: Any, model: Any, data: Any, checkpoint: str | None) -> dict[str, float]:
    """What the module's test says of the training samples, by its names with `train_set/` in the place of `test/`.

    An epoch's mean of the training loss is one over weights that change; the gap between training and test is to be
    measured at the same ones. Nothing is logged, and nothing is known of data that are no DataModule of ours.

    Args:
        checkpoint: whose weights were tested; None for those that the module has.
    """
    if not isinstance(data, DataModule):
        return {}
    data.trainer = trainer
    with _unlogged(trainer):
        trainer.test(
            model, dataloaders=data.train_set_dataloader(), ckpt_path=checkpoint, verbose=False, weights_only=True
        )
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {STAGE + name.removeprefix("test/"): value for name, value in found.items() if name.startswith("test/")}


@contextmanager
def _unlogged(trainer: Any) -> Any:
    """Without loggers, whose curves of the test are those of the test set."""
    loggers, trainer.loggers = trainer.loggers, []
    try:
        yield
    finally:
        trainer.loggers = loggers
