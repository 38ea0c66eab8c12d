"""Rename: python scripts/rename.py mine; your package in src, and every place that names it, under another name."""

import argparse
from pathlib import Path

from metronome.app.console.command_line import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description="Give your package another name.")
    parser.add_argument("name", help="the new name: src/<name>, and `import <name>`")
    parser.add_argument("--package", metavar="NAME", help="its name now, where src holds several of yours")
    arguments = parser.parse_args()

    from metronome.app.rename import rename

    print(rename(Path(__file__).resolve().parents[1], arguments.name, arguments.package))


if __name__ == "__main__":
    with command_line():
        main()
