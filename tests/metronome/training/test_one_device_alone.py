"""A value that one device logs alone, at the end of an epoch: said in one line, where all would wait for ever."""

from typing import Any

import pytest
from jobs import Data, Net, fit


class Alone(Net):
    """Logs in one hook by the first device alone."""

    def __init__(self, hook: str, **options: Any) -> None:
        super().__init__()

        def log() -> None:
            if self.trainer.is_global_zero:
                self.log("mine", 1.0, **options)

        setattr(self, hook, log)


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_epoch_end", "on_train_epoch_start"])
def test_is_told(hook: str) -> None:
    with pytest.raises(Exception, match=r"the devices log different values.*(mine|nothing).*rank_zero_only=True"):
        fit(model=Alone(hook), data=Data(batch_size=32), devices=2, strategy="ddp_fork")
    fit(model=Alone(hook, rank_zero_only=True), data=Data(batch_size=32), devices=2, strategy="ddp_fork", max_epochs=1)
