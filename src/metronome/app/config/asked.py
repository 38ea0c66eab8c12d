"""What a command asks for, read from Hydra's configuration. Imports nothing heavy."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from metronome.runs.going_on import Asked, resumes
from metronome.runs.overrides import what_it_is
from metronome.runs.sweeps import sweep_record
from metronome.units import InputError


def asked(config: Any, overrides: list[str]) -> Asked:
    """What a command, or a job of a sweep, asks for by its configuration and its overrides.

    Raises:
        InputError: for another word than `auto` or `retry`, or two ways of going on.
    """
    resume, checkpoint = config.get("resume"), config.get("ckpt_path")
    asks_to_resume = resumes(resume)
    if resume is not None and checkpoint is not None:
        raise InputError(f"resume={resume} finds its checkpoint itself; leave out ckpt_path={checkpoint}")
    return Asked(
        overrides=what_it_is(overrides),
        checkpoint=None if checkpoint is None else str(checkpoint),  # 5 is a name too
        resume=asks_to_resume and checkpoint is None,
        retry=resume == "retry",
    )


def typed(overrides: Any) -> list[str]:
    """Hydra's list of overrides as they were typed: to look at one would put values in for its `${...}`."""
    return OmegaConf.to_container(overrides)  # pyright: ignore


def asked_sweep(config: Any) -> dict[str, Any]:
    """What the sweep of a whole configuration is."""
    return sweep_record(OmegaConf.to_container(config.hydra.sweeper), typed(config.hydra.overrides.task))


def in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def in_search() -> bool:
    """Whether this is a job of a sweep that chooses the values itself."""
    return in_sweep() and not HydraConfig.get().sweeper._target_.endswith((".BasicSweeper", ".Sweeper"))
