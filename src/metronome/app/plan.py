"""The plan of a run, without the run."""

import json

from omegaconf import DictConfig, OmegaConf

from metronome.app.config.build import build_data, build_trainer, choose_budget, plan_training
from metronome.app.config.types import check_types
from metronome.app.console import output
from metronome.units import InputError


def plan(config: DictConfig, overrides: list[str]) -> str:
    """The plan of a configuration, as text or JSON.

    Reads the training data, which may be downloaded for it, unless they know how many they are; makes no run and no
    model.
    """
    output.quiet()
    check_types(config)
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    if settings["format"] not in ("text", "json"):
        raise InputError(f"format={settings['format']} is not known; use format=text or format=json")
    choose_budget(settings, overrides)  # pyright: ignore
    settings |= {"callbacks": {}, "logger": {}}
    if isinstance(settings["trainer"].get("devices"), int):
        # Counting needs no GPU, and no more cores than there are.
        settings["trainer"] |= {"accelerator": "cpu", "strategy": "auto", "precision": None}
    trainer = build_trainer(settings, callbacks=[], on_this_machine=False)  # pyright: ignore
    planned = plan_training(trainer, build_data(settings), by_known_numbers=True)  # pyright: ignore
    if planned is None:
        raise InputError("the training data have no length, so the training cannot be planned")
    return json.dumps(planned.as_dict(), indent=2) if settings["format"] == "json" else planned.text()
