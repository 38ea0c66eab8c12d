"""Random images of the size of photographs: nothing to learn, and all that a large network costs."""

from typing import Any

import torch

from metronome.data import DataModule, Splits
from metronome.units import InputError, check_number


class Images(DataModule):
    """Random images with random labels, to measure memory and throughput on.

    A batch is `(images, labels)`: float32 of shape (samples, num_channels, size, size), from 0 to 1, and int64 of shape
    (samples,). In `splits` the images are bytes, a quarter as large, and a batch is made float32 on its device.

    Args:
        num_samples: training samples; validation and test have a tenth as many each, at least one.
        size: height and width in pixels.
        num_channels: channels of an image.
        num_classes: labels are from 0 to `num_classes` - 1.
        data_seed: the data's own seed, so that the data stay the same over the seeds of a run.
        options: those of `DataModule`.
    """

    def __init__(
        self,
        num_samples: int = 1_000,
        size: int = 224,
        num_channels: int = 3,
        num_classes: int = 10,
        data_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("data.num_samples", num_samples, "samples")
        check_number("data.size", size, "pixels")
        check_number("data.num_channels", num_channels, "channels")
        check_number("data.num_classes", num_classes, "classes")
        if isinstance(data_seed, bool) or not isinstance(data_seed, int) or not 0 <= data_seed < 2**63:
            raise InputError(f"data.data_seed={data_seed!r} is not a whole number from 0 up, below 2**63")
        self.sizes = (num_samples, max(1, num_samples // 10), max(1, num_samples // 10))
        self.shape, self.num_classes, self.data_seed = (num_channels, size, size), num_classes, data_seed

    def known_num_samples(self) -> int:
        return self.sizes[0]

    def load(self) -> Splits:
        generator = torch.Generator().manual_seed(self.data_seed)
        images = torch.randint(256, (sum(self.sizes), *self.shape), generator=generator, dtype=torch.uint8)
        labels = torch.randint(self.num_classes, (len(images),), generator=generator)
        return Splits(*zip(images.split(self.sizes), labels.split(self.sizes), strict=True))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, torch.Tensor):  # to predict, without labels
            return self._as_floats(batch)
        images, labels = batch
        return self._as_floats(images), labels

    def _as_floats(self, images: torch.Tensor) -> torch.Tensor:
        # Of float64, if such is the precision of the run.
        return self.trainer.precision_plugin.convert_input(images.float().div_(255))  # pyright: ignore
