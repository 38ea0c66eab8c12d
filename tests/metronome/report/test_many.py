"""Reports of many runs: in time, and with figures that can be read."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metronome.report import report

MakeRun = Callable[..., Path]


def many(make_run: MakeRun, count: int) -> None:
    for i in range(count):
        values = {"lr": 10 ** (i % 50 / -10), "width": i % 10}
        given = [f"+x.{key}={value}" for key, value in values.items()]
        train = [(5 * k, 2.0 / (1 + k) + i / count, 1001.0 + k) for k in range(40)]
        val = [(5 * k, 2.5 / (1 + k) + i / count, 1001.5 + k) for k in range(0, 40, 4)]
        make_run(f"sweep/{i:04}", given, seed=i % 2, val_loss=1.0 + i / count, config={"x": values},
                 points={"train/loss": train, "val/loss": val})  # fmt: skip


def check(text: str, count: int) -> None:
    assert f"{count:,} ({count:,} finished) in 50 groups" in text
    assert text.count('<td class="word folder"') == count
    assert "The 8 of 50 groups with the best val/loss are told apart; the others are grey." in text


@pytest.mark.slow
def test_a_thousand_runs(make_run: MakeRun, tmp_path: Path) -> None:
    many(make_run, 1000)
    began = time.monotonic()
    text = report(tmp_path / "runs").read_text()
    assert time.monotonic() - began < 120
    check(text, 1000)


@pytest.mark.usefixtures("undrawn")
def test_sixty_runs(make_run: MakeRun, tmp_path: Path) -> None:
    many(make_run, 60)
    check(report(tmp_path / "runs").read_text(), 60)
