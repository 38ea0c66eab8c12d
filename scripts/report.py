"""Report: python scripts/report.py runs/digits/sweep_...; tables and figures of runs, in one page. The summary.csv of
an earlier report will do, too: its results again, without the curves."""

import argparse

from metronome.app.console.command_line import command_line
from metronome.runs.folders import relative


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and figures of runs, in one page of HTML.")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="the folder of a run, of a sweep, or one above; or a summary.csv"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write; else to `report` in the path")
    parser.add_argument("--title", help="the heading of the page")
    arguments = parser.parse_args()

    from metronome.report import report  # only now, so that --help need not wait for matplotlib

    print(f"report     {relative(report(arguments.paths, arguments.out, arguments.title))}")


if __name__ == "__main__":
    with command_line():
        main()
