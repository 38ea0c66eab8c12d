"""A checkpoint's run made again on one device: trainer, module with its weights, data; to test, predict or export."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metronome.app.config.from_checkpoint import Builder, making
from metronome.app.config.rates import unscaled
from metronome.app.load import config_of, read_whole, restore
from metronome.training import Trainer
from metronome.training.batches.seeds import check_seed
from metronome.units import InputError

# The trainer's flags that a test has a use for. The others are about training, or about the logs and folders of the
# run that made the checkpoint; an object that is named there, such as a profiler, is not made.
_FLAGS = (
    "accelerator", "precision", "accumulate_grad_batches", "limit_test_batches", "deterministic", "benchmark",
    "detect_anomaly", "inference_mode", "seed", "allow_tf32",
)  # fmt: skip
_TEST_FLAGS: dict[str, Any] = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "devices": 1, "num_nodes": 1, "strategy": "auto", "max_epochs": 1,
}  # fmt: skip
_TRAINERS = ("metronome.training.Trainer", "metronome.training.trainer.Trainer")


def reopen(
    path: str | Path, changes: list[str], allow: str | Iterable[str] = ()
) -> tuple[Trainer, L.LightningModule, L.LightningDataModule]:
    """Trainer, module and data of a checkpoint's run, on one device, without loggers.

    Args:
        path: a checkpoint of a run of this project.
        changes: values of its configuration to change, as `key=value`.
        allow: packages that the configuration may use beside those of `metronome.load`.

    Raises:
        InputError: for a file that is not such a checkpoint or asks for what is not allowed, or a change of a key that
            is not there.
    """
    checkpoint = read_whole(path)
    config = _changed(config_of(checkpoint, path, "data", "model", "trainer"), changes)
    trainer, model, data = _built(config, path, allow)
    restore(model, checkpoint, path)
    if any(change.startswith("trainer.precision=") for change in changes):
        model.float()  # from here the trainer goes on
    return trainer, model, data


def _built(
    config: dict[str, Any], path: str | Path, allow: str | Iterable[str]
) -> tuple[Trainer, L.LightningModule, L.LightningDataModule]:
    parts: dict[str, Any] = {"data": config["data"], "model": unscaled(config["model"])}
    name = config["trainer"]["_target_"]
    if name not in _TRAINERS:
        parts["trainer"] = {"_target_": name, "_partial_": True}
    flags = _flags(config["trainer"])
    seed = check_seed(config.get("seed"))
    build = Builder(parts, path, allow, hint=lambda packages: f"allow={','.join(packages)}")
    make_trainer = build("trainer") if "trainer" in parts else Trainer
    with making(name, "trainer"):
        trainer = make_trainer(**flags)
    L.seed_everything(seed, verbose=False)
    model, data = build("model"), build("data")
    for made, kind in ((trainer, Trainer), (model, L.LightningModule), (data, L.LightningDataModule)):
        if not isinstance(made, kind):
            raise InputError(f"checkpoint {path} makes a {type(made).__name__} where a {kind.__name__} must be")
    return trainer, model, data


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """The flags for a test. Raises InputError for one that is an object or a list, or a GPU that is not there."""
    flags = {name: given[name] for name in _FLAGS if name in given}
    for name, value in flags.items():
        if isinstance(value, dict | list):
            raise InputError(f"trainer.{name} is a {type(value).__name__}; in an evaluation it is a plain value")
    if flags.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError("the run was on a GPU, and this machine has none; add trainer.accelerator=cpu")
    return flags | _TEST_FLAGS


def _changed(config: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    for change in changes:
        key, equals, text = change.partition("=")
        *parents, name = key.split(".")
        if parents == ["trainer"] and name not in (*_FLAGS, "_target_"):
            raise InputError(
                f"'{change}' has no meaning in an evaluation, which runs on one device and logs nothing; of the "
                f"trainer's flags it takes {', '.join(_FLAGS)}"
            )
        owner: Any = config
        for parent in parents:
            owner = owner.get(parent) if isinstance(owner, dict) else None
        if not equals or not isinstance(owner, dict) or name not in owner:
            how = f"it has no key {key.lstrip('+~')}" if equals else "write key=value"
            raise InputError(f"'{change}' changes nothing in the checkpoint's configuration; {how}")
        owner[name] = _merged(owner[name], _value(change, text))
    return config


def _value(change: str, text: str) -> Any:
    """What a user has typed, read as Hydra's files are, and not resolved."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # pyright: ignore
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"cannot read '{change}': {str(error).splitlines()[0]}") from error


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}
