"""What the files of an experiment choose of a group, beside what the configuration has by itself."""

from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from metronome.runs.deciding import flat


def chosen_by_files(group: str, written: dict[str, Any]) -> str | None:
    """What a file sets of a group, as `key=value`; None where it is as the configuration has it without any override.

    Args:
        group: its name.
        written: the whole configuration, with `${...}`; nothing of the group was typed.
    """
    hydra: Any = HydraConfig.get()
    try:
        plain = (
            GlobalHydra.instance()
            .config_loader()
            .load_configuration(config_name=hydra.job.config_name, overrides=[], run_mode=RunMode.RUN)
        )
    except Exception:  # a configuration that is whole with overrides only has no such defaults
        return None
    chosen, default = (choices.get(group) for choices in (hydra.runtime.choices, plain.hydra.runtime.choices))
    if chosen != default:
        return f"{group}={chosen}"
    theirs: Any = OmegaConf.to_container(plain, resolve=False)
    before, now = flat(group, theirs.get(group)), flat(group, written.get(group))
    return next((f"{key}={now[key]}" for key in now if now[key] != before.get(key)), None)
