"""The benchmark runs each way and prints a ratio for it; how large it is no test says."""

import re

from commands import Commands


def test_it_prints_medians_spreads_and_ratios(commands: Commands) -> None:
    done = commands("benchmark", "--steps", "20", "--rounds", "2")
    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.endswith("x")]
    assert [row[:28].strip() for row in rows] == [
        "plain loop",
        "Lightning",
        "Metronome",
        "Metronome, 4 micro-batches",
    ]
    assert all(re.fullmatch(r".{28} +[\d,]+  +[\d,]+ to [\d,]+ +[\d.]+x", row) for row in rows)
