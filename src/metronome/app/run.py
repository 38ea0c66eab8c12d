"""One run, one folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from metronome.units import InputError

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Run:
    """A run's folder, and the configuration that it stands for, resolved to plain containers."""

    folder: Path
    experiment: str
    overrides: list[str]
    in_sweep: bool
    config: dict[str, Any]

    @classmethod
    def claim(cls, config: DictConfig) -> "Run":
        """Take the folder that Hydra made for this job, and keep the configuration there as config.yaml.

        Raises:
            InputError: if the folder holds a run already.
        """
        hydra = HydraConfig.get()
        run = cls(
            folder=Path(hydra.runtime.output_dir),
            experiment=hydra.runtime.choices.get("experiment") or "default",
            overrides=list(hydra.overrides.task),
            in_sweep=hydra.mode == RunMode.MULTIRUN,
            config=OmegaConf.to_container(config, resolve=True, throw_on_missing=True),  # pyright: ignore
        )
        if rank_zero_only.rank == 0:
            run._write_config()
        return run

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """The run that another process has claimed."""
        config = yaml.safe_load((folder / CONFIG_FILE).read_text())
        about = {name: config.pop(name) for name in ("experiment", "overrides", "in_sweep")}
        return cls(folder=folder, config=config, **about)

    def _write_config(self) -> None:
        about = {"experiment": self.experiment, "overrides": self.overrides, "in_sweep": self.in_sweep}
        try:
            with open(self.folder / CONFIG_FILE, "x") as file:
                yaml.safe_dump(about | self.config, file, sort_keys=False)
        except FileExistsError:
            raise InputError(f"the folder {self.relative_folder} holds a run already; give another one") from None

    @property
    def relative_folder(self) -> str:
        relative = os.path.relpath(self.folder)
        return str(self.folder) if relative.startswith("..") else relative
