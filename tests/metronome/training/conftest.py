"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Lightning is told no folder, it writes into the current one, and that is not to be the repository."""
    monkeypatch.chdir(tmp_path)
