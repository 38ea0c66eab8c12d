"""Samples from files: tables, arrays, pictures; inputs alone, or with what is true of them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metronome.units import InputError

TRUE = ("label", "labels", "target", "targets", "y")  # what a column or an array of true values is called
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
KINDS = f".csv, .npy, .npz, or a picture ({', '.join(PICTURES)}) or a folder of them"


class Samples(NamedTuple):
    """Inputs as one tensor, a row a sample, in the order of the file; the true values, where the file has them; and of
    pictures the names."""

    inputs: Tensor
    true: Tensor | None = None
    names: list[str] | None = None

    @property
    def columns(self) -> Any:
        return self.inputs if self.true is None else (self.inputs, self.true)


def read_samples(path: Path, like: Any) -> Samples:
    """The samples in a file.

    Args:
        path: of a kind of `KINDS`. A CSV file has a column for each number of an input, and a column called as in
            `TRUE` for what is true of it; a .npz file has one array of inputs, and such a one.
        like: called where there are pictures, for one input of the training: they are brought to its size, channels
            and type, from 0 to 1 where that is no whole number.

    Raises:
        InputError: if it is not there, or not to be read so.
    """
    if not path.exists():
        raise InputError(f"there is no file {path}")
    try:
        if path.is_dir() or path.suffix.lower() in PICTURES:
            return _pictures(path, like())
        if path.suffix.lower() == ".csv":
            return _table(path)
        if path.suffix.lower() in (".npy", ".npz"):
            return _arrays(path)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    raise InputError(f"cannot predict from {path}; what can be read is {KINDS}")


def _table(path: Path) -> Samples:
    with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark at the beginning
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise InputError(f"{path} is empty")
    if len(rows[0]) == 1 and (other := next((mark for mark in ";\t" if mark in rows[0][0]), None)):
        raise InputError(f"{path} has {other!r} between its values; write commas")
    names = rows[0] if any(_number(cell) is None for cell in rows[0]) else None
    rows = rows[1:] if names is not None else rows
    names = names or [str(i) for i in range(len(rows[0]))]
    values = np.empty((len(rows), len(names)))
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise InputError(f"{path}: row {i + 1} has {len(row)} values, and there are {len(names)} columns")
        for j, cell in enumerate(row):
            value = _number(cell)
            if value is None:
                raise InputError(f"{path}: {cell!r} in row {i + 1}, column {names[j]}, is no number")
            values[i, j] = value
    is_true = np.array([name.strip().lower() in TRUE for name in names])
    inputs = torch.from_numpy(values[:, ~is_true]).float()
    _check_rows(path, inputs)
    true = values[:, is_true]
    return Samples(inputs, _true(true[:, 0] if true.shape[1] == 1 else true) if true.shape[1] else None)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _arrays(path: Path) -> Samples:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        found = {"inputs": loaded}
    else:
        with loaded:
            found = {name: loaded[name] for name in loaded.files}
    true = [name for name in found if name.lower() in TRUE]
    others = [name for name in found if name not in true]
    if len(others) != 1 or len(true) > 1:
        raise InputError(
            f"{path} has the arrays {', '.join(found) or 'none'}; give one of inputs, and one of labels or targets "
            f"called one of {', '.join(TRUE)}, or none"
        )
    inputs = torch.from_numpy(_plain(path, found[others[0]]))
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    _check_rows(path, inputs)
    if not true:
        return Samples(inputs)
    values = _plain(path, found[true[0]])
    if values.ndim == 0 or len(values) != len(inputs):
        raise InputError(f"{path} has {len(inputs):,} inputs, and {true[0]} is of shape {values.shape}")
    return Samples(inputs, _true(values))


def _plain(path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path} holds {array.dtype}, and inputs are numbers")
    return array.astype(array.dtype.newbyteorder("="))


def _true(values: np.ndarray) -> Tensor:
    """Labels where all are whole numbers, else targets."""
    whole = bool(np.all(values == np.round(values)))
    return torch.from_numpy(np.asarray(values)).to(torch.int64 if whole else torch.float32)


def _check_rows(path: Path, inputs: Tensor) -> None:
    if inputs.ndim == 0 or not inputs.numel():
        raise InputError(f"{path} has no sample in it")


# ---- pictures -----------------------------------------------------------------------------------------


def _pictures(path: Path, like: Tensor) -> Samples:
    from PIL import Image, UnidentifiedImageError  # it comes with Matplotlib

    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in PICTURES) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} has no picture in it ({', '.join(PICTURES)})")
    if like.ndim not in (2, 3) or (like.ndim == 3 and like.shape[0] not in (1, 3)):
        raise InputError(
            f"pictures are brought to the form of the training's inputs, and those are of shape {tuple(like.shape)}; "
            "give arrays as they are in a .npy file"
        )
    height, width = like.shape[-2:]
    mode = "RGB" if like.ndim == 3 and like.shape[0] == 3 else "L"
    arrays: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as image:
                arrays.append(np.asarray(image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)))
        except UnidentifiedImageError as error:
            raise InputError(f"{file} is no picture that can be read") from error
    pixels = torch.from_numpy(np.stack(arrays))
    pixels = pixels.permute(0, 3, 1, 2) if mode == "RGB" else pixels.reshape(-1, *like.shape)
    inputs = pixels.float() / 255 if like.is_floating_point() else pixels
    return Samples(inputs.contiguous(), names=_names(path, files))


def _names(path: Path, files: Sequence[Path]) -> list[str]:
    return [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
