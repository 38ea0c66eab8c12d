"""Train: python scripts/train.py +experiment=digits [key=value ...]; --help shows what there is to change."""

import hydra
from omegaconf import DictConfig

from metronome.app.console.command_line import command_line
from metronome.app.errors.exits import past_hydra
from metronome.app.sweeps.study import reported


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> float | None:
    with past_hydra():
        from metronome.app.train import (
            train,
        )  # only now, so that --help and tab completion need not wait for torch

        return train(config)


if __name__ == "__main__":
    with command_line(), reported():
        main()
