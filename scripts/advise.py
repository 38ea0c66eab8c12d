"""Advise: python scripts/advise.py runs/digits/<run>; what is seen in runs, and what to do about it."""

import argparse

from metronome.app.console.command_line import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description="What is seen in runs, and what to do about it.")
    parser.add_argument("paths", nargs="+", metavar="RUN", help="the folder of a run, of a sweep, or one above")
    arguments = parser.parse_args()

    from metronome.advice.of_runs import advice_of_runs

    print(advice_of_runs(arguments.paths))


if __name__ == "__main__":
    with command_line():
        main()
