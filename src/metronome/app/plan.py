"""The plan of a run, without the run: counted, and measured where that is asked for."""

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metronome.app.config.asked import in_search, in_sweep
from metronome.app.config.build import build_data, build_trainer, choose_budget, plan_training
from metronome.app.config.types import check_types
from metronome.app.console import output
from metronome.app.measure.many import Rows
from metronome.units import InputError, Plan


def plan(config: DictConfig, overrides: list[str], rows: Rows) -> str | None:
    """The plan of a configuration, as text or JSON; with `-m` it becomes one of the rows instead.

    Reads the training data, which may be downloaded for it, unless they know how many they are; makes no run and no
    model. With `measure=true` the model is made and some steps are, in processes and a folder that go.
    """
    output.quiet()
    check_types(config)
    if config.format not in ("text", "json"):
        raise InputError(f"format={config.format} is not known; use format=text or format=json")
    if not isinstance(config.measure, bool):
        raise InputError(f"measure={config.measure} is neither true nor false; seconds=5 says for how long")
    on_paper = config.get("paper") is not None
    if not in_sweep():
        return _plan_on_paper(config, overrides) if on_paper else _plan(config, overrides)
    if in_search():
        raise InputError("a plan is of settings that are known, and a search chooses them as it goes; leave it out")
    rows.form = config.format
    with rows.of_a_job(overrides):
        if on_paper:
            _plan_on_paper(config, overrides, rows)
            return None
        planned = counted(config, overrides)
        rows.add(planned, _measured(config, overrides, planned, others=False) if config.measure else None)
    return None


def _plan(config: DictConfig, overrides: list[str]) -> str:
    planned = counted(config, overrides)
    found = _measured(config, overrides, planned, others=True) if config.measure else None
    if found is None:
        return json.dumps(planned.as_dict(), indent=2) if config.format == "json" else planned.text()
    from metronome.app.measure.text import numbers_of, text_of

    if config.format == "json":
        return json.dumps(planned.as_dict() | {"measured": numbers_of(found)}, indent=2)
    return f"{planned.text()}\n\n{text_of(found)}"


def _plan_on_paper(config: DictConfig, overrides: list[str], rows: Rows | None = None) -> str | None:
    """Of devices that are not here; as text or JSON, or as one of the rows."""
    from metronome.app.paper.clock import clock_here
    from metronome.app.paper.numbers import numbers_of
    from metronome.app.paper.story import on_paper
    from metronome.app.paper.text import HEADS, row_of, text_of

    clock = clock_here(overrides, _seconds(config), lambda here: counted(here, overrides)) if config.measure else None
    found = on_paper(config, overrides, clock)
    if rows is not None:
        rows.add(found.plan, cells=dict(zip(HEADS, row_of(found), strict=True)), more={"paper": numbers_of(found)})
        return None
    if config.format == "json":
        return json.dumps(found.plan.as_dict() | {"paper": numbers_of(found)}, indent=2)
    return f"{found.plan.text()}\n\n{text_of(found)}"


def counted(config: DictConfig, overrides: list[str]) -> Plan:
    """The plan. Raises InputError where the data have no length."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    choose_budget(settings, overrides)
    settings |= {"callbacks": {}, "logger": {}}
    if isinstance(settings["trainer"].get("devices"), int):
        # Counting needs no GPU, and no more cores than there are.
        settings["trainer"] |= {"accelerator": "cpu", "strategy": "auto", "precision": None}
    trainer = build_trainer(settings, callbacks=[], on_this_machine=False)
    planned = plan_training(trainer, build_data(settings), by_known_numbers=True)
    if planned is None:
        raise InputError("the training data have no length, so the training cannot be planned")
    return planned


def _measured(config: DictConfig, overrides: list[str], planned: Plan, others: bool) -> Any:
    from metronome.app.measure.story import measure_plan

    return measure_plan(config, overrides, planned, others, _seconds(config))


def _seconds(config: DictConfig) -> float:
    seconds = config.seconds
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
        raise InputError(f"seconds={seconds!r} of steps to measure is not a number above 0")
    return float(seconds)
