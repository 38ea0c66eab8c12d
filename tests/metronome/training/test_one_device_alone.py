"""A value that one device logs alone, at the end of an epoch: said in one line, where all would wait for ever."""

from typing import Any

import pytest
from jobs import Data, Net, fit
from torch.distributed import distributed_c10d

from metronome.training.logged import meeting


class Alone(Net):
    """Logs in one hook by the first device alone."""

    def __init__(self, hook: str, reads: bool = False, **options: Any) -> None:
        super().__init__()

        def log(*_: Any) -> None:
            if self.trainer.is_global_zero:
                self.log("mine", 1.0, **options)
                if reads:
                    self.trainer.callback_metrics.get("mine")

        setattr(self, hook, log)


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_epoch_end", "on_train_epoch_start"])
def test_is_told(hook: str) -> None:
    with pytest.raises(Exception, match=r"the devices log different values.*(mine|nothing).*rank_zero_only=True"):
        fit(model=Alone(hook), data=Data(batch_size=32), devices=2, strategy="ddp_fork")
    fit(model=Alone(hook, rank_zero_only=True), data=Data(batch_size=32), devices=2, strategy="ddp_fork", max_epochs=1)


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_end"])
def test_the_largest_is_told_too(hook: str) -> None:
    """Which is a collective of its own, and would meet another of the other device."""
    with pytest.raises(Exception, match=r"the devices log different values.*mine"):
        fit(model=Alone(hook, reduce_fx="max", on_epoch=True), data=Data(batch_size=32), devices=2, strategy="ddp_fork")


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_epoch_end"])
def test_one_that_reads_alone_is_told(hook: str) -> None:
    with pytest.raises(Exception, match=r"the devices log different values.*(mine|nothing)"):
        fit(model=Alone(hook, reads=True), data=Data(batch_size=32), devices=2, strategy="ddp_fork")


class LateStore:
    """Of a device that the others follow when it has said what it waits for."""

    def __init__(self, lines: list[Any]) -> None:
        self.lines = lines

    def add(self, name: str, number: int) -> int:
        return 2 if self.lines else 1


def test_one_that_waits_for_the_others_says_so(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(meeting, "SECONDS", 0.0)
    monkeypatch.setattr(meeting, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed_c10d, "_get_default_store", lambda: LateStore(caplog.records))
    with caplog.at_level("WARNING", "metronome.training"):
        meeting.meet(2, ["on_train_start.mine"])
    assert "on_train_start.mine" in caplog.text
    assert "rank_zero_only=True" in caplog.text
