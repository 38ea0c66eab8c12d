"""Consolidate: python scripts/consolidate.py runs/.../checkpoints/best.ckpt --to best.ckpt; the checkpoint of a sharded
training, which is a folder, as one ordinary file."""

import argparse

from metronome.app.console.command_line import command_line
from metronome.runs.folders import relative


def main() -> None:
    parser = argparse.ArgumentParser(description="Make one ordinary file of a checkpoint that is a folder of shards.")
    parser.add_argument("checkpoint", help="the folder, as trainer=fsdp writes it")
    parser.add_argument("--to", required=True, metavar="FILE", help="the file to write, such as best.ckpt")
    parser.add_argument(
        "--weights-only", action="store_true", help="without the optimizer's states: no training goes on from it"
    )
    arguments = parser.parse_args()

    from metronome.app.consolidate import consolidate  # only now, so that --help need not wait for torch

    done = consolidate(arguments.checkpoint, arguments.to, arguments.weights_only)
    print(f"step {done.step:,}, {done.bytes / 1e6:,.1f} MB: {relative(done.path)}")


if __name__ == "__main__":
    with command_line():
        main()
