"""Benchmark: python scripts/benchmark.py; what a step costs in a plain loop, in Lightning, and here."""

import argparse

from metronome.app.console.command_line import command_line
from metronome.units import check_number


def main() -> None:
    parser = argparse.ArgumentParser(description="What a step costs in a plain loop, in Lightning, and here.")
    parser.add_argument("--steps", type=int, default=500, help="steps to measure, after a warm-up of 50")
    parser.add_argument("--rounds", type=int, default=7, help="times that each way is measured")
    arguments = parser.parse_args()

    for name in ("steps", "rounds"):
        check_number(f"--{name}", getattr(arguments, name), name)

    from metronome.app.benchmark import benchmark

    print(benchmark(arguments.steps, arguments.rounds))


if __name__ == "__main__":
    with command_line():
        main()
