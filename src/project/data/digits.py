"""Handwritten digits: real images that come with scikit-learn, so that the first run needs no network."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from metronome.data import DataModule, Splits
from metronome.units import InputError, check_number


class Digits(DataModule):
    """1,797 images of 8x8 pixels in 10 classes, split by class into 1,257 to train, 180 to validate, 360 to test.

    A batch is `(images, labels)`: float32 of shape (samples, 1, 8, 8), from 0 to 1, and int64 of shape (samples,).
    Args:
        num_train: training samples to take, from 1 to 1,257; None for all.
        options: those of DataModule.

    Source: E. Alpaydin & C. Kaynak (1998), UCI Optical Recognition of Handwritten Digits, test part.
    """

    def __init__(self, num_train: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        if num_train is not None:
            check_number("data.num_train", num_train, "samples")
        self.num_train = num_train

    def load(self) -> Splits:
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # pyright: ignore
        labels = torch.from_numpy(digits.target).long()  # pyright: ignore
        # The split is part of the data: the same for every seed of a run.
        rest, test = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=labels)
        train, val = train_test_split(rest, test_size=180, random_state=0, stratify=labels[rest])
        if self.num_train is not None and self.num_train > len(train):
            raise InputError(f"data.num_train={self.num_train} is more than the {len(train):,} training samples")
        train = train[: self.num_train]
        return Splits(*((images[part], labels[part]) for part in (train, val, test)))
