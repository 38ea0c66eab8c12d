"""Evaluate: python scripts/evaluate.py runs/.../checkpoints/best.ckpt [key=value ...]; prints the test metrics."""

import argparse
import json

from metronome.app.cli import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description="Test a checkpoint on the test set of its run.")
    parser.add_argument("checkpoint", help="the file; its run's configuration is inside it")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="values of that configuration to change")
    arguments = parser.parse_args()

    from metronome.app.evaluate import evaluate  # only now, so that --help need not wait for torch

    print(json.dumps(evaluate(arguments.checkpoint, arguments.changes), indent=2))


if __name__ == "__main__":
    with command_line():
        main()
