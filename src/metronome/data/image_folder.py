"""Pictures in folders, a class a folder: listed once, decoded where they are read, augmented by seed, epoch, sample."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from metronome.data.module import DataModule
from metronome.data.splits import Splits
from metronome.units import InputError, check_number

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("metronome.data")

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_LEAST_AREA = 0.25  # of a picture, that an augmented one shows
_LONGEST = 4 / 3  # its sides before it is made square

View = Callable[["Image"], Tensor]


class ImageFolder(DataModule):
    """Pictures in `folder/train/<class>/`, and `folder/val`, `folder/test` where there are such.

    A batch is `(images, labels)`: float32 of shape (samples, 3, size, size), from 0 to 1, and int64 of shape
    (samples,): the place of the class among the names of the folders in `train`, sorted. From the disk to the device
    they are bytes, a quarter as large. Files are decoded where samples are read: in the workers, if there are any.

    Args:
        folder: with these folders.
        size: height and width that pictures are brought to.
        augment: whether those to train are cropped and mirrored at random, by (seed, epoch, sample): the same for any
            number of workers, and after a resume. False: the middle of each, as to evaluate.
        num_classes: how many classes there must be; None: as many as there are.
        train_view: in place of that: makes a tensor of one picture, an `Image` of Pillow's in RGB, with random numbers
            of torch, numpy or Python. A tensor of bytes is made floats on the device, any other stays as it is.
        eval_view: the same for pictures to validate and to test.
        options: those of DataModule.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int = 224,
        augment: bool = True,
        num_classes: int | None = None,
        train_view: View | None = None,
        eval_view: View | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_number("data.size", size, "pixels")
        if num_classes is not None:
            check_number("data.num_classes", num_classes, "classes")
        self.folder, self.size, self.num_classes = Path(folder).expanduser(), size, num_classes
        self.eval_view = eval_view or Middle(size)
        self.train_view = train_view or (RandomPart(size) if augment else Middle(size))

    def load(self) -> Splits:
        if not (self.folder / "train").is_dir():
            raise InputError(
                f"{self.folder} has no folder train with a folder for each class in it; name another: data.folder=..."
            )
        classes = _folders(self.folder / "train")
        if self.num_classes not in (None, len(classes)):
            raise InputError(
                f"{self.folder / 'train'} has {len(classes)} classes, a folder each, and data.num_classes="
                f"{self.num_classes}"
            )
        views = self.train_view, self.eval_view, self.eval_view
        paths = [self.folder / split for split in Splits._fields]
        return Splits(
            *(Pictures(path, classes, view) if path.is_dir() else None for path, view in zip(paths, views, strict=True))
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, Tensor):  # to predict, without labels
            return self._as_floats(batch)
        images, labels = batch
        return self._as_floats(images), labels

    def _as_floats(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            return images
        # Of float64, if such is the precision of the run.
        return self.trainer.precision_plugin.convert_input(images.float().div_(255))  # pyright: ignore


class Pictures(Dataset):
    """Pictures with their classes. Their names are kept in tensors, which processes share: a list of strings would be
    copied to each worker, if only because counting references to a string writes beside it.

    Args:
        folder: with a folder for each class.
        classes: their names; the label is the place among them.
        view: makes a tensor of a picture.

    Raises:
        InputError: for a folder of no class, and where there is no picture at all.
    """

    def __init__(self, folder: Path, classes: Sequence[str], view: View) -> None:
        if unknown := [name for name in _folders(folder) if name not in classes]:
            raise InputError(f"{folder} has a folder {unknown[0]!r}, a class that the folder train has not")
        names, ends, counts = bytearray(), [np.zeros(1, np.int64)], []
        for name in classes:
            found = _pictures(folder / name) if (folder / name).is_dir() else []
            lengths = np.fromiter(map(len, found), np.int64, len(found))
            ends.append(len(names) + np.cumsum(lengths))
            names += b"".join(found)
            counts.append(len(found))
        if not names:
            raise InputError(
                f"the folders in {folder} have no pictures; what counts as one ends with {' '.join(ENDINGS)}"
            )
        empty = [name for name, count in zip(classes, counts, strict=True) if not count and (folder / name).is_dir()]
        if empty:
            log.warning("%s has no pictures in %d of its classes: %s", folder, len(empty), ", ".join(empty[:5]))
        self.folder, self.classes, self.view = folder, list(classes), view
        self.names = torch.frombuffer(names, dtype=torch.uint8)
        self.ends = torch.from_numpy(np.concatenate(ends))
        self.ends_of_classes = torch.from_numpy(np.cumsum(counts))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def label(self, index: int) -> int:
        return int(torch.searchsorted(self.ends_of_classes, index, right=True))

    def path(self, index: int) -> Path:
        name = self.names[self.ends[index] : self.ends[index + 1]]
        return self.folder / self.classes[self.label(index)] / os.fsdecode(bytes(name.numpy()))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, ImageOps

        index = range(len(self))[index]
        path = self.path(index)
        try:
            with Image.open(path) as picture:
                if isinstance(size := getattr(self.view, "size", None), int):
                    picture.draft("RGB", (2 * size, 2 * size))  # a photograph is decoded no larger than it is needed
                ImageOps.exif_transpose(picture, in_place=True)  # as it was held, which cameras write beside it
                return self.view(_in_colours(picture, path)), self.label(index)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises for damaged files
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(f"sample {index}: {path} cannot be read as a picture: {reason}") from error


class Middle:
    """The middle of a picture: the largest square of it, brought to a size; bytes of shape (3, size, size)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: "Image") -> Tensor:
        width, height = picture.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _scaled(picture, (left, top, left + side, top + side), self.size)


class RandomPart:
    """A random part of a picture, of a quarter of it to all, nearly square; every other time mirrored."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: "Image") -> Tensor:
        width, height = picture.size
        area, longer, x, y, mirrored = torch.rand(5).tolist()
        area = width * height * (_LEAST_AREA + (1 - _LEAST_AREA) * area)
        ratio = _LONGEST ** (2 * longer - 1)
        wide, high = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
        left, top = x * (width - wide), y * (height - high)
        image = _scaled(picture, (left, top, left + wide, top + high), self.size)
        return image.flip(2) if mirrored < 0.5 else image


def _scaled(picture: "Image", box: tuple[float, float, float, float], size: int) -> Tensor:
    from PIL.Image import Resampling

    small = picture.resize((size, size), Resampling.BILINEAR, box=box, reducing_gap=2.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def _in_colours(picture: "Image", path: Path) -> "Image":
    """In RGB. Pillow would cut numbers above 255 off, where there are more than 8 bits."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise InputError(
            f"{path} is a picture of 32 bits, and nothing says which number is white; save it with 8 or 16 bits"
        )
    return picture.convert("RGB")


def _folders(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _pictures(path: Path) -> list[bytes]:
    """The names of the pictures in a folder, sorted, so that the order does not depend on the file system."""
    with os.scandir(os.fsencode(path)) as entries:
        endings = tuple(map(str.encode, ENDINGS))
        return sorted(entry.name for entry in entries if entry.name.lower().endswith(endings))
