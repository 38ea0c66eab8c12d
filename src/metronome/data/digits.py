"""Handwritten digits: real images that come with scikit-learn, so that the first run needs no network."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from metronome.data.module import DataModule, Splits


class Digits(DataModule):
    """1,797 images of 8x8 pixels in 10 classes, split by class into 1,257 to train, 180 to validate, 360 to test.

    A batch is `(images, labels)`: float32 of shape (samples, 1, 8, 8), from 0 to 1, and int64 of shape (samples,).
    Source: E. Alpaydin & C. Kaynak (1998), UCI Optical Recognition of Handwritten Digits, test part.
    """

    def load(self) -> Splits:
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # pyright: ignore
        labels = torch.from_numpy(digits.target).long()  # pyright: ignore
        # The split is part of the data: the same for every seed of a run.
        rest, test = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=labels)
        train, val = train_test_split(rest, test_size=180, random_state=0, stratify=labels[rest])
        return Splits(*((images[part], labels[part]) for part in (train, val, test)))
