"""What is to be said of training data without a length: what an epoch is there, and how a resume finds its place."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint

from metronome.units import Duration, InputError

log = logging.getLogger("metronome.training")


def say_what_has_no_length(trainer: Any, budget: Duration | None) -> None:
    """Each in one line, where the training loader is one without a length."""
    combined = trainer.fit_loop._combined_loader
    if combined is None or sized_len(combined) is not None or trainer.fast_dev_run:
        return
    if trainer.max_epochs not in (None, -1) and trainer.limit_train_batches == 1.0:
        asked = f"budget={budget}" if budget is not None else f"trainer.max_epochs={trainer.max_epochs}"
        log.info(
            "%s: the training data have no length, so an epoch lasts until they end, if they do; budget=500steps, "
            "1e6samples or 90min always ends",
            asked,
        )
    saves = any(isinstance(callback, Checkpoint) for callback in trainer.callbacks)
    if saves and not all(hasattr(each, "load_state_dict") for each in combined.flattened):
        log.info(
            "the training data keep no state (state_dict, load_state_dict): a run that goes on reads them again up to "
            "where it was, and is exact if they give the same samples again"
        )


@contextmanager
def check_interval(trainer: Any) -> Iterator[None]:
    """Around the setup of the loaders. Raises InputError for a validation after a part of an epoch without a length."""
    try:
        yield
    except MisconfigurationException as error:
        if "val_check_interval" not in str(error):
            raise
        raise InputError(
            f"trainer.val_check_interval={trainer.val_check_interval} is a part of an epoch, and the training data "
            "have no length; use a number of steps with trainer.check_val_every_n_epoch=null, or a time"
        ) from error
