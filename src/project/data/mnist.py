"""MNIST and Fashion-MNIST: downloaded once, checked, and kept as the gzipped files that they are published as."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from metronome.data import DataModule, Splits
from metronome.data.fetching import RemoteFiles
from metronome.data.idx import count_idx, read_idx
from metronome.units import InputError


class MNIST(DataModule):
    """70,000 handwritten digits of 28x28 pixels in 10 classes: 60,000 to train, 5,000 to validate, 5,000 to test.

    A batch is `(images, labels)`: float32 of shape (samples, 1, 28, 28), from 0 to 1, and int64 of shape (samples,).

    The published test set of 10,000 is dealt out in turn: the first image validates, the second tests, and so on. Its
    first half is cleaner and easier than its second, says its authors' page, so halves would differ. The test accuracy
    is thus one over 5,000 images, none of which had a say in which checkpoint is best.

    Source: Y. LeCun, L. Bottou, Y. Bengio & P. Haffner (1998), Gradient-based learning applied to document recognition.

    Args:
        folder: where the files lie, or are put; unpacked ones will do.
        mirrors: addresses of folders on the web with the files in them, tried in turn; None for those known.
        options: those of `DataModule`.
    """

    known_mirrors: ClassVar[Sequence[str]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    checksums: ClassVar[Mapping[str, str]] = {  # as in torchvision's datasets/mnist.py
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    }

    def __init__(
        self, folder: str | Path = "datasets/mnist", mirrors: Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.files = RemoteFiles(self.checksums, self.known_mirrors, folder, mirrors)

    def known_num_samples(self) -> int:
        """By the files where they are there, else as published."""
        labels = "train-labels-idx1-ubyte.gz"
        return count_idx(self.files.path(labels)) if self.files.are_there([labels]) else 60_000

    def prepare_data(self) -> None:
        self.files.fetch()

    def load(self) -> Splits:
        train, rest = self._read("train"), self._read("t10k")
        val, test = (tuple(column[start::2] for column in rest) for start in (0, 1))
        return Splits(train, val, test)

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        images = read_idx(self.files.path(f"{part}-images-idx3-ubyte.gz"), 3)
        labels = read_idx(self.files.path(f"{part}-labels-idx1-ubyte.gz"), 1)
        if len(images) != len(labels):
            raise InputError(
                f"the {part} files in {self.files.folder} do not belong together: {len(images):,} images and "
                f"{len(labels):,} labels"
            )
        # 4 bytes a pixel are 220 MB for all of it; bytes would be a quarter, to be converted again in every batch.
        pixels = torch.from_numpy(images.astype(np.float32)).div_(255)
        return pixels.unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


class FashionMNIST(MNIST):
    """70,000 images of clothes in the sizes and the format of MNIST: H. Xiao et al. (2017), arXiv 1708.07747."""

    known_mirrors = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    )
    checksums: ClassVar[Mapping[str, str]] = {  # as in the authors' README
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    }

    def __init__(
        self, folder: str | Path = "datasets/fashion_mnist", mirrors: Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(folder, mirrors, **options)
