"""Checkpoints of a small training, and a disk that is full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jobs import Net

from metronome.training import Checkpoint

if TYPE_CHECKING:
    import pytest


def checkpoint(folder: Path, **options: Any) -> Checkpoint:
    given: dict[str, Any] = {
        "filename": "best",
        "monitor": "val/loss",
        "save_last": True,
        "enable_version_counter": False,
    }
    return Checkpoint(folder, **given | options)


def step_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


class FullDisk(Net):
    """The disk is full once these steps have begun: what is written goes to /dev/full."""

    def __init__(self, steps: range, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.steps, self.is_full = steps, False
        monkeypatch.setattr("metronome.training.checkpoints.files.open", self.open, raising=False)

    def open(self, path: Path, mode: str) -> Any:
        return open("/dev/full" if self.is_full else path, mode)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.is_full = self.trainer.global_step in self.steps
