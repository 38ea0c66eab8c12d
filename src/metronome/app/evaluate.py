"""A checkpoint, tested: its configuration and its weights are all in the file."""

from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metronome.app import say
from metronome.app.build import build_data, build_model
from metronome.app.checkpoints import KEY, check_fits, read_checkpoint
from metronome.training import Trainer
from metronome.units import InputError

# What a test has no use for, or must not repeat: logs and folders of the run that made the checkpoint.
_TEST_FLAGS: dict[str, Any] = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "devices": 1, "num_nodes": 1, "strategy": "auto",
    "budget": None, "max_epochs": 1, "max_steps": -1, "max_time": None, "fast_dev_run": False, "profiler": None,
}  # fmt: skip


def evaluate(path: str | Path, changes: list[str]) -> dict[str, float]:
    """Test a checkpoint on the test set of its run, on one device.

    Args:
        path: a checkpoint of a run of this project.
        changes: values of its configuration to change, as `key=value`.

    Returns:
        The metrics that the model logs in its test.

    Raises:
        InputError: for a file that is not such a checkpoint, or a change of a key that is not there.
    """
    say.quiet()
    checkpoint = read_checkpoint(path)
    if KEY not in checkpoint:
        raise InputError(f"checkpoint {path} was made elsewhere: no configuration is in it")
    config = _changed(checkpoint[KEY]["config"], changes)
    model, data = build_model(config), build_data(config)
    check_fits(checkpoint, model, path)
    model.load_state_dict(checkpoint["state_dict"])
    trainer = instantiate(config["trainer"] | _TEST_FLAGS, _convert_="all")
    assert isinstance(trainer, Trainer)
    _check_tests(model, data)
    trainer.test(model, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _changed(config: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    settings = OmegaConf.create(config)
    for change in changes:
        key, equals, _ = change.partition("=")
        if key.removeprefix("trainer.") in _TEST_FLAGS and key.startswith("trainer."):
            raise InputError(f"'{change}' has no meaning in an evaluation, which runs on one device and logs nothing")
        if not equals or OmegaConf.select(settings, key, default="") == "":
            raise InputError(f"'{change}' changes nothing in the checkpoint's configuration; write key=value")
    try:
        settings = OmegaConf.merge(settings, OmegaConf.from_dotlist(changes))
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from error
    return OmegaConf.to_container(settings)  # pyright: ignore


def _check_tests(model: L.LightningModule, data: L.LightningDataModule) -> None:
    for owner, hook, base in (
        (model, "test_step", L.LightningModule),
        (data, "test_dataloader", L.LightningDataModule),
    ):
        if getattr(type(owner), hook) is getattr(base, hook):
            raise InputError(f"{type(owner).__name__} has no {hook}, so there is nothing to test")
