"""Tune: python scripts/tune.py +experiment=digits [target=0.3] [key=value ...]; finds a rate and a batch size."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metronome.app.console.command_line import command_line
from metronome.app.errors.exits import past_hydra
from metronome.units import InputError


@hydra.main(version_base="1.3", config_path="../conf", config_name="tune")
def main(config: DictConfig) -> None:
    with past_hydra():
        from metronome.app.tune.story import tune  # only now, so that --help need not wait for torch

        tune(config, list(HydraConfig.get().overrides.task), lambda text: print(text, flush=True))


if __name__ == "__main__":
    with command_line():
        if {"-m", "--multirun"} & set(sys.argv) or any(a.startswith("+study=") for a in sys.argv[1:]):
            raise InputError("tune makes many trainings of one setting by itself; leave out -m and +study")
        main()
