"""IDX, the file format of MNIST: a magic number, the size of each dimension, then the values, all of it big-endian."""

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from metronome.units import InputError

_UNSIGNED_BYTES = 0x0800  # to which the magic number adds the dimensions


def read_idx(path: Path, num_dimensions: int) -> np.ndarray:
    """The values in an IDX file of unsigned bytes: a uint8 array, not to be written to.

    Args:
        path: the file; one whose name ends with .gz is unpacked.
        num_dimensions: those that the array must have: 3 for images, 1 for labels.

    Raises:
        InputError: for a file of another kind, a damaged one, and one that ends early or late.

    Source: Y. LeCun, C. Cortes & C. Burges, The MNIST database of handwritten digits, "File formats".
    """
    content = _content(path)
    start = 4 + 4 * num_dimensions
    if len(content) < start:
        raise InputError(f"{path} is no IDX file: it has {len(content):,} bytes, and its beginning alone takes {start}")
    magic, *sizes = struct.unpack(f">{1 + num_dimensions}I", content[:start])
    if magic != _UNSIGNED_BYTES + num_dimensions:
        raise InputError(
            f"{path} is not an IDX file of bytes in {num_dimensions} dimensions: it begins with 0x{magic:08x}, not "
            f"0x{_UNSIGNED_BYTES + num_dimensions:08x}"
        )
    if len(content) - start != prod(sizes):
        shape = " x ".join(f"{size:,}" for size in sizes)
        raise InputError(f"{path} is damaged: {shape} values were announced, and {len(content) - start:,} are there")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def count_idx(path: Path) -> int:
    """How many rows an IDX file announces, by its first bytes alone. Raises InputError for a damaged one."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(8)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if len(content) < 8:
        raise InputError(f"{path} is no IDX file: it has {len(content):,} bytes, and its beginning alone takes 8")
    return struct.unpack(">I", content[4:])[0]


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
