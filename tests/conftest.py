"""Fixtures for all rooms."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

# One thread: on small tensors more gain nothing, and beside other work their waiting for each other takes for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from commands import Commands


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at what was imported: every run begins with a full one."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Iterator[Commands]:
    """Runs the scripts in a fresh folder; puts the logging that they configure back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Commands(tmp_path, monkeypatch, capfd)
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and not drawn, which is what takes time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **options: file.write(b"\x89PNG"))
