"""Benchmark: python scripts/benchmark.py; what a step costs in a plain loop, in Lightning, and here."""

import argparse
import shlex
import sys
from pathlib import Path

from metronome.app.benchmark.asked import CASES, CLOCKS, DEFAULT, Asked, cases_of, processes_of
from metronome.app.console.command_line import command_line


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What a step costs in a plain loop, in Lightning, and here.",
        epilog="\n".join(["cases:", *(f"  {name:12}{title}" for name, title in CASES.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", default=",".join(DEFAULT), metavar="NAME,...", help="what to measure, or all")
    parser.add_argument("--steps", type=int, default=Asked.steps, help="to measure each time; slow cases take fewer")
    parser.add_argument("--rounds", type=int, default=Asked.rounds, help="times that each way is measured")
    parser.add_argument("--processes", metavar="N,...", help="measure the case processes too, on so many: 2,4,8")
    parser.add_argument(
        "--clock", default=Asked.clock, metavar="NAME", help=f"{' or '.join(CLOCKS)} (if others compute)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all numbers")
    parser.add_argument("--page", action="store_true", help="write table and figure into the library's page on this")
    arguments = parser.parse_args()

    cases = cases_of(arguments.cases) + (("processes",) if arguments.processes is not None else ())
    asked = Asked(
        cases,
        steps=arguments.steps,
        rounds=arguments.rounds,
        processes=Asked.processes if arguments.processes is None else processes_of(arguments.processes),
        clock=arguments.clock,
        json=arguments.json,
        page=arguments.page,
        project=Path(__file__).resolve().parents[1],
        command=shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]]),
    )

    from metronome.app.benchmark.run import benchmark  # only now, so that --help need not wait for torch

    benchmark(asked, lambda text: print(text, flush=True))


if __name__ == "__main__":
    with command_line():
        main()
