"""Is the advice right? Runs with one fault each, and the same with the flags that were advised, over some seeds:

python -m project.faults --seeds 5 --folder runs/faults
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from project.faults.faults import FAULTS, Fault

# What is true of the machine, and not of the run.
_OF_MACHINE = ("the machine is busy",)
_TRAIN = Path(__file__).parents[3] / "scripts/train.py"


def main() -> None:
    parser = argparse.ArgumentParser(description="Is the advice right? Runs with one fault each, and what helps.")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each fault")
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="of the runs; what is there stays")
    parser.add_argument("--only", help="faults whose names begin so")
    arguments = parser.parse_args()
    faults = [fault for fault in FAULTS if fault.name.startswith(arguments.only or "")]
    print(
        "| fault | said first | and flags (seed 0) | outcome | better | faulty -> advised |\n|---|---|---|---|---|---|"
    )
    rows = [row(fault, arguments.seeds, arguments.folder) for fault in faults]
    first, seeds, better, followed = (sum(column) for column in zip(*rows, strict=True))
    print(
        f"\nThe fault came first in {first} of {seeds} runs; following the flags was better in {better} of {followed}."
    )


def row(fault: Fault, seeds: int, folder: Path) -> tuple[int, int, int, int]:
    """One fault's line of the table. Returns how often it came first, of how many, what was better, of how many."""
    first, pairs, wrong, flags = 0, [], set(), ""
    for seed in range(seeds):
        faulty = run(folder / fault.name.replace(" ", "_") / str(seed), [*fault.command, f"seed={seed}"])
        found = [a for a in faulty["advice"] if not a["symptom"].startswith(_OF_MACHINE)]
        symptom = found[0]["symptom"] if found else ""
        is_right = symptom.startswith(fault.symptom) if fault.symptom else not found
        first += is_right
        if not is_right:
            wrong.add(symptom or "nothing")
        if not fault.symptom or not is_right:
            continue
        flags = flags or found[0]["flags"]
        typed = [flag.strip("'") for flag in found[0]["flags"].split()]
        place = folder / f"{fault.name.replace(' ', '_')}_advised" / str(seed)
        advised = run(place, [*fault.command, f"seed={seed}", *typed])
        pairs.append((fault.measured(faulty, faulty), fault.measured(advised, faulty)))
    better = sum(after < before for before, after in pairs)
    numbers = ", ".join(f"{before:.3g} -> {after:.3g}" for before, after in pairs)
    said = f"{first} of {seeds}" + (f" (else: {'; '.join(sorted(wrong))})" if wrong else "")
    last = f"{better} of {len(pairs)}" if pairs else ""
    print(f"| {fault.name} | {said} | `{flags}` | {fault.outcome} | {last} | {numbers} |", flush=True)
    return first, seeds, better, seeds if fault.symptom else 0


def run(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The result of a run, made if it is not there."""
    file = folder / "result.json"
    if not file.is_file():
        command = [sys.executable, str(_TRAIN), "+experiment=minibatch", *overrides, f"hydra.run.dir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if not file.is_file():
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
