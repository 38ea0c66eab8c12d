"""Plan: python scripts/plan.py +experiment=digits [key=value ...] [format=json]; counts, and trains nothing."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metronome.app.console.command_line import command_line
from metronome.app.errors.exits import past_hydra
from metronome.units import InputError


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(config: DictConfig) -> None:
    with past_hydra():
        from metronome.app.plan import (
            plan,
        )  # only now, so that --help and tab completion need not wait for torch

        print(plan(config, list(HydraConfig.get().overrides.task)))


if __name__ == "__main__":
    with command_line():
        if {"-m", "--multirun"} & set(sys.argv):
            raise InputError("a plan is of one run; leave out -m")
        if any(argument.startswith("+study=") for argument in sys.argv[1:]):
            raise InputError("a plan is of one run, and a study has many; give the experiment of one, +experiment=...")
        main()
