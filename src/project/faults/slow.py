"""Digits that take their time: as if each were read from a slow disk."""

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from metronome.data import DataModule, Splits
from project.data import Digits


class SlowDigits(DataModule):
    """Each training sample takes `milliseconds` to read, in whatever process reads it; all else is as `Digits`."""

    def __init__(self, milliseconds: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.seconds, self._digits = milliseconds / 1e3, Digits(**options)

    def load(self) -> Splits:
        splits = self._digits.load()
        images, labels = splits.train
        return Splits(train=_Slow(images, labels, self.seconds), val=splits.val, test=splits.test)


class _Slow(Dataset):
    def __init__(self, images: Any, labels: Any, seconds: float) -> None:
        self.images, self.labels = torch.as_tensor(images), torch.as_tensor(labels)
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(self.seconds)
        return self.images[index], self.labels[index]
