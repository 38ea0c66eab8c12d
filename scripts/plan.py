"""Plan: python scripts/plan.py +experiment=digits [key=value ...] [measure=true] [format=json]; trains nothing."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metronome.app.console.command_line import command_line
from metronome.app.errors.exits import past_hydra
from metronome.app.measure.many import Rows
from metronome.app.measure.server import begin_if_asked, no_folder
from metronome.units import InputError

ROWS = Rows()  # of several plans: -m


@hydra.main(version_base="1.3", config_path="../conf", config_name="plan")
def main(config: DictConfig) -> None:
    with past_hydra():
        begin_if_asked(config)
        from metronome.app.plan import (
            plan,
        )  # only now, so that --help and tab completion need not wait for torch

        text = plan(config, list(HydraConfig.get().overrides.task), ROWS)
        if text is not None:
            print(text)


if __name__ == "__main__":
    with command_line():
        if any(argument.startswith("+study=") for argument in sys.argv[1:]):
            raise InputError("a plan is of one run, and a study has many; give the experiment of one, +experiment=...")
        with no_folder(sys.argv):
            main()
        if ROWS.kept:
            print(ROWS.text())
