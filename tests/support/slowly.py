"""A callback that gives a thread beside the training time to do its work, after each epoch."""

import time
from typing import Any

from lightning.pytorch.callbacks import Callback


class Slowly(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        time.sleep(2.5)
