"""The table of foreign code, beside stock Lightning: `python tests/foreign/table.py [--write] [--only WORDS]`.

Runs every case, prints what came of it, and ends with 1 where one differs and nobody said so. `--write` puts the table
into the README beside this file; `--only` runs the cases whose kind or name has these words in it.
"""

import argparse
import importlib
import sys
from itertools import groupby
from pathlib import Path

import torch
from judging import Verdict, judge
from stock import CASES, Case

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table: written by table.py -->\n", "<!-- end of table -->\n"
# In the order of the table, with what is written above each part.
KINDS = {
    "modules": "Modules", "losses": "Losses", "data": "Loaders, samplers, the structure of batches",
    "optimizers": "Optimizers, schedulers, manual optimization", "hooks": "Hooks", "callbacks": "Lightning's callbacks",
    "logging": "Metrics, logging, evaluation", "flags": "Flags and precision", "resume": "Going on from a checkpoint",
    "devices": "Two processes",
}  # fmt: skip


def cases() -> list[Case]:
    """All of them, in the order of the table."""
    if not CASES:
        for kind in KINDS:
            importlib.import_module(f"cases_of_{kind}")
    return CASES


def table_of(verdicts: list[Verdict]) -> str:
    """In Markdown, with a part for each kind."""
    parts = []
    for kind, found in groupby(verdicts, lambda verdict: verdict.case.kind):
        rows = [f"| {_cell(v.case.name)} | {_cell(v.whole)} | {_cell(v.cut)} |" for v in found]
        parts.append("\n".join([f"| {KINDS[kind]} | as it is | cut in three |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def written() -> str:
    """The table that stands in the README."""
    return README.read_text().split(BEGIN)[1].split(END)[0]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    parser.add_argument("--only", default="", help="only cases with this in their kind or name")
    options = parser.parse_args(arguments)
    if options.write and options.only:
        parser.error("--write takes all cases")
    torch.set_num_threads(1)
    verdicts = [judge(case) for case in cases() if options.only in f"{case.kind} {case.name}"]
    table = table_of(verdicts)
    print(table)
    failures = [failure for verdict in verdicts for failure in verdict.failures]
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if options.write and not failures:
        before, rest = README.read_text().split(BEGIN)
        README.write_text(before + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
