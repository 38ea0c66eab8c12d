"""Evaluate: python scripts/evaluate.py runs/.../checkpoints/best.ckpt [key=value ...]; prints the test metrics."""

import argparse
import json

from metronome.app.console.arguments import CHANGES, changes_and_packages
from metronome.app.console.command_line import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description="Test a checkpoint on the test set of its run.")
    parser.add_argument("checkpoint", help="the file; its run's configuration is inside it")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help=CHANGES)
    arguments = parser.parse_args()

    from metronome.app.evaluate import evaluate  # only now, so that --help need not wait for torch

    changes, packages = changes_and_packages(arguments.changes)
    print(json.dumps(evaluate(arguments.checkpoint, changes, packages), indent=2))


if __name__ == "__main__":
    with command_line():
        main()
