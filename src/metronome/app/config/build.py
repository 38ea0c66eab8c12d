"""From the configuration to objects."""

import logging
import os
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from metronome.app.config.foreign import GivesPlan, wants_to_know
from metronome.app.config.monitored import leave_mode_open, without_open_mode
from metronome.app.config.rates import scaled
from metronome.app.config.torchrun import follow_torchrun
from metronome.data import DataModule
from metronome.models.supervised import Supervised
from metronome.runs.overrides import key_and_value
from metronome.training import Trainer
from metronome.training.checkpoints.monitored import check_mode, settle_all
from metronome.units import InputError, Plan, check_number

_THREADS = torch.get_num_threads()
_LIMITS = ("max_epochs", "max_steps", "max_time")
_MOST_PER_CORE = 8  # processes: enough to try out a layout, and a mistyped number takes no machine down

log = logging.getLogger("metronome")


@dataclass
class Job:
    """Everything a training needs. `plan` is None where the data have no length; `rates` tells how learning rates were
    scaled with the batch size, in words."""

    data: L.LightningDataModule
    model: L.LightningModule
    trainer: Trainer
    plan: Plan | None
    rates: list[str]


def build_job(config: dict[str, Any], overrides: list[str], callbacks: list[Callback]) -> Job:
    """Data, model, trainer and plan of a run.

    Args:
        config: resolved, in plain containers; it stays as it is.
        overrides: what was typed.
        callbacks: beside those of the configuration.

    Raises:
        InputError, hydra.errors.InstantiationException: for a configuration that makes no sense.
    """
    config = deepcopy(config)  # limits give way to a budget in it
    _check_groups(config)
    set_threads(config["num_threads"])
    if not isinstance(config["test"], bool):
        raise InputError(f"test={config['test']} is neither true nor false")
    check_mode(config.get("mode"))
    choose_budget(config, overrides)
    follow_torchrun(config["trainer"], overrides)
    trainer = build_trainer(config, callbacks)
    data = build_data(config)
    settings, rates = scaled(config["model"], lambda: first_batch_size(config, trainer, data))
    model = build_model(config | {"model": settings}, trainer)
    settle_all(trainer, model)
    return Job(data, model, trainer, plan_training(trainer, data), rates)


def set_threads(number: int | None) -> None:
    """CPU threads for PyTorch; None for as many as it began with, whatever another job of a sweep has set."""
    if number is not None:
        check_number("num_threads", number, "CPU threads")
    torch.set_num_threads(number or _THREADS)


def _check_groups(config: dict[str, Any]) -> None:
    for group in ("data", "model", "trainer"):
        if not isinstance(config.get(group), dict) or "_target_" not in config[group]:
            raise InputError(f"{group} has no _target_ to make; choose a file of the group, such as {group}=mine")


def build_trainer(config: dict[str, Any], callbacks: list[Callback], on_this_machine: bool = True) -> Trainer:
    """The Trainer with the callbacks and loggers of the configuration and those given; checks that the machine has
    the devices, unless it is not to train `on_this_machine`."""
    callbacks = build_all(config, "callbacks", Callback) + callbacks
    loggers: list[Logger] | bool = build_all(config, "logger", Logger) or False
    if not any(isinstance(callback, Checkpoint) for callback in callbacks):
        config["trainer"]["enable_checkpointing"] = False  # or Lightning adds one of its own
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        config["trainer"]["enable_progress_bar"] = False
    if on_this_machine:
        _check_devices(config["trainer"])
    trainer = _make("trainer", config["trainer"], callbacks=callbacks, logger=loggers)
    if not isinstance(trainer, Trainer):
        raise InputError(
            f"trainer._target_={config['trainer'].get('_target_')} makes a {type(trainer).__name__}; "
            "a run needs a metronome.training.Trainer, or a class derived from it"
        )
    return trainer


def build_data(config: dict[str, Any]) -> L.LightningDataModule:
    data = _make("data", config["data"])
    if not isinstance(data, L.LightningDataModule):
        raise InputError(f"data must make a LightningDataModule, and it makes a {type(data).__name__}")
    return data


def first_batch_size(config: dict[str, Any], trainer: Trainer, data: L.LightningDataModule) -> int:
    """Samples in a batch of the first epoch. Raises InputError where the data have no length."""
    given = config["data"].get("batch_size")
    if isinstance(given, int):
        return given  # whether the data have so many is looked at later
    L.seed_everything(config["seed"], verbose=False)  # as the data would find it after the model was made
    plan = plan_training(trainer, data)
    if plan is None:
        raise InputError("optimizer.scale_lr needs the batch size, and the data have no length; use scale_lr=none")
    return plan.batch_size


def build_model(config: dict[str, Any], trainer: Trainer) -> L.LightningModule:
    # Right before the weights are drawn, so that they depend on the seed alone.
    L.seed_everything(config["seed"], verbose=False)
    settings, given = config["model"], {}
    if isinstance(settings.get("scheduler"), dict) and not _is_ours(settings["_target_"]):
        make = _make("scheduler", settings["scheduler"])
        if wants_to_know(make):
            settings = {key: value for key, value in settings.items() if key != "scheduler"}
            given["scheduler"] = GivesPlan(make, trainer)
    model = _make("model", settings, **given)
    if not isinstance(model, L.LightningModule):
        raise InputError(f"model must make a LightningModule, and it makes a {type(model).__name__}")
    return model


def _is_ours(target: str) -> bool:
    """Whether a class asks for the plan itself. What a function makes is not known before."""
    made = get_object(target)
    return isinstance(made, type) and issubclass(made, Supervised)


def build_all(config: dict[str, Any], group: str, kind: type) -> list[Any]:
    """The objects of a group that holds several of a kind, by name. One set to null is left out."""
    objects = []
    for name, entry in (config.get(group) or {}).items():
        if entry is None or (isinstance(entry, dict) and not any(entry.values())):
            continue  # left out, or only an option of one that is
        if not isinstance(entry, dict) or "_target_" not in entry:
            raise InputError(f"{group}.{name} has no _target_: name the class to make, or set it to null")
        objects.append(_make(f"{group}.{name}", without_open_mode(entry)))
        leave_mode_open(objects[-1], name, entry, config)
        if not isinstance(objects[-1], kind):
            raise InputError(f"{group}.{name} must make a {kind.__name__}, and it makes a {type(objects[-1]).__name__}")
    return objects


def _make(where: str, settings: dict[str, Any], **given: Any) -> Any:
    """What a part of the configuration describes; an error in it tells the place of that part."""
    try:
        return instantiate(settings, _convert_="all", **given)
    except InstantiationException as error:
        error.where = where  # pyright: ignore
        raise


def plan_training(trainer: Trainer, data: L.LightningDataModule, by_known_numbers: bool = False) -> Plan | None:
    """The plan, before anything is trained. Loads the training data, and downloads what of them is not there; not so
    `by_known_numbers`, where they know how many they are."""
    trainer.datamodule = data  # pyright: ignore
    data.trainer = trainer
    if not (by_known_numbers and isinstance(data, DataModule) and data.known_num_samples() is not None):
        data.prepare_data()
        data.setup("fit")
    if hasattr(data, "schedule"):
        return trainer.plan
    return trainer.plan_of(data.train_dataloader())


def choose_budget(config: dict[str, Any], overrides: list[str]) -> None:
    """`budget` takes the place of the trainer's limits, but not of one given beside it."""
    if config["budget"] is None:
        return
    for name in _LIMITS:
        given = [o for o in overrides if key_and_value(o)[0] == f"trainer.{name}"]
        # Of several the last counts, and one that sets no limit is none.
        if given and config["trainer"].get(name) not in (None, -1):
            raise InputError(f"two budgets: budget={config['budget']} and {given[-1].lstrip('+')}; give one of them")
    for name in _LIMITS:
        config["trainer"].pop(name, None)


def _check_devices(flags: dict[str, Any]) -> None:
    """Refuse more processes or GPUs than there are, before Lightning starts them."""
    devices, accelerator = flags.get("devices", "auto"), flags.get("accelerator", "auto")
    gpus = torch.cuda.device_count()
    wants_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus > 0)
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)  # as Lightning reads it
    is_number = isinstance(devices, int) and not isinstance(devices, bool) and (devices >= 1 or devices == -1)
    by_index = accelerator != "cpu" and (isinstance(devices, list) or (isinstance(devices, str) and "," in devices))
    if not is_number and not by_index and devices != "auto":
        raise InputError(f"trainer.devices={devices} is not a number of devices from 1 up, nor auto")
    if accelerator in ("gpu", "cuda") and gpus == 0:
        strategy = flags.get("strategy")
        instead = "fsdp_cpu" if isinstance(strategy, dict) else "ddp_cpu" if strategy == "ddp" else "cpu"
        raise InputError(
            f"trainer.accelerator=gpu, and this machine has no GPU that PyTorch can use; use trainer={instead}"
        )
    if not isinstance(devices, int) or devices == -1:
        return
    if wants_gpu and devices > gpus:
        raise InputError(f"trainer.devices={devices} is more than the {gpus} GPUs there are; use at most {gpus}")
    cores = max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if not wants_gpu and devices > _MOST_PER_CORE * cores:
        raise InputError(
            f"trainer.devices={devices} processes are more than {_MOST_PER_CORE} for each of the {cores} CPU cores; "
            f"use at most {_MOST_PER_CORE * cores}"
        )
    if not wants_gpu and devices > cores and "LOCAL_RANK" not in os.environ:  # said once, not by each process
        log.warning("trainer.devices=%s processes share %s CPU cores: right, but slow", devices, cores)
