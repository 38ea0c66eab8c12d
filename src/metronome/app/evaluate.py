"""A checkpoint, tested: its configuration and its weights are all in the file."""

from collections.abc import Iterable
from pathlib import Path

import lightning as L

from metronome.app.console import output
from metronome.app.reopen import reopen
from metronome.units import InputError


def evaluate(path: str | Path, changes: list[str], allow: str | Iterable[str] = ()) -> dict[str, float]:
    """Test a checkpoint on the test set of its run, on one device.

    Args:
        path: a checkpoint of a run of this project.
        changes: values of its configuration to change, as `key=value`.
        allow: packages that the configuration may use beside those of `metronome.load`.

    Returns:
        The metrics that the model logs in its test.

    Raises:
        InputError: for a file that is not such a checkpoint or asks for what is not allowed, or a change of a key that
            is not there.
    """
    output.quiet()
    trainer, model, data = reopen(path, changes, allow)
    _check_tests(model, data)
    trainer.test(model, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _check_tests(model: L.LightningModule, data: L.LightningDataModule) -> None:
    for owner, hook, base in (
        (model, "test_step", L.LightningModule),
        (data, "test_dataloader", L.LightningDataModule),
    ):
        if getattr(type(owner), hook) is getattr(base, hook):
            raise InputError(f"{type(owner).__name__} has no {hook}, so there is nothing to test")
