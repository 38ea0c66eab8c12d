"""The lines at the end of a run."""

import logging
from pathlib import Path

import pytest

from metronome.app.console import output
from metronome.app.run.claim import Run


@pytest.mark.parametrize(("step", "line"), [(1280, "val/loss 0.125 at step 1,280"), (None, "val/loss 0.125")])
def test_the_best_step_may_be_unknown(step: int | None, line: str, caplog: pytest.LogCaptureFixture) -> None:
    content = {
        "best": {"monitor": "val/loss", "value": 0.125, "step": step},
        "metrics": {"val/loss": 0.5, "test_acc": 0.75, "test_loss": 0.25, "train/x": 1.0},
        "tested": ["test_acc", "test_loss"],
        "seconds": {"fit": 2.0},
        "samples_per_second": 500.0,
        "weights_sha256": "abc",
    }
    with caplog.at_level(logging.INFO, logger="metronome"):
        output.show_result(Run(Path("runs/x"), "x", [], False, {}), content)
    assert [message.split(maxsplit=1)[1] for message in caplog.messages[1:3]] == [line, "test_acc 0.75  test_loss 0.25"]
