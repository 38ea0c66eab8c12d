"""The folder of a run or a sweep, chosen once, before Hydra makes it. Imports nothing heavy."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from metronome.app.config.asked import asked, asked_sweep, typed
from metronome.app.errors.exits import past_hydra
from metronome.app.hosts.company import company
from metronome.app.hosts.folder import agreed_folder
from metronome.app.storage.bringing import bring_sweep, runs_known
from metronome.runs.folders import RunFolder, relative, run_around
from metronome.runs.going_on import choose_folder, resumes
from metronome.runs.sweeps import newest_sweep


class ChooseFolder(Callback):
    """Puts the folder of a run, or sweep, that goes on in the place of the new one that the configuration names.

    A folder that is named on the command line stays.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _is_given(config, "hydra.run.dir"):
            return
        with past_hydra():
            ask, new = asked(config, typed(config.hydra.overrides.task)), Path(config.hydra.run.dir)
            storage = config.get("storage") if ask.resume or ask.checkpoint == "last" else None
            is_path = ask.checkpoint not in (None, "last")
            run = run_around(Path(str(ask.checkpoint))) if is_path else None
            around = None if run is None else RunFolder(run)
            if (others := company()) is None:
                there = runs_known(storage, new.parent) if ask.resume or ask.checkpoint == "last" else []
                folder = relative(choose_folder(ask, new, there, around))
            else:
                folder = agreed_folder(
                    others, ask, new,
                    lambda there: choose_folder(ask, new, runs_known(storage, new.parent, there), around),
                )  # fmt: skip
        _put(config, "hydra.run.dir", folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if _is_given(config, "hydra.sweep.dir"):
            return
        with past_hydra():
            folder = new = Path(config.hydra.sweep.dir)
            if resumes(config.get("resume")):
                bring_sweep(config.get("storage"), new.parent, asked_sweep(config))
                folder = newest_sweep(new.parent, asked_sweep(config)) or new
        _put(config, "hydra.sweep.dir", str(folder))
        # Each job composes its configuration anew, maybe in another process: it is to find the same folder.
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")


def _is_given(config: DictConfig, key: str) -> bool:
    return any(override.lstrip("+").startswith(f"{key}=") for override in config.hydra.overrides.hydra)


def _put(config: DictConfig, key: str, value: str) -> None:
    OmegaConf.update(config, key, value)
