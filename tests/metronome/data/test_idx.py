import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from mirrors import idx

from metronome.data.idx import read_idx
from metronome.units import InputError

# Two images of 1 row and 3 columns, byte by byte as the format has it.
BY_HAND = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9, 253, 254, 255])


def test_a_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(BY_HAND)
    values = read_idx(tmp_path / "x", 3)
    assert values.dtype == np.uint8
    assert values.tolist() == [[[7, 8, 9]], [[253, 254, 255]]]


@pytest.mark.parametrize("shape", [(0,), (1,), (70_000,), (3, 28, 28), (0, 28, 28), (300, 2, 1)])
@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_what_was_written_is_read(shape: tuple[int, ...], name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape)
    content = idx(values)
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "x.gz" else content)
    assert np.array_equal(read_idx(tmp_path / name, len(shape)), values)


def header(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


PACKED = gzip.compress(BY_HAND, mtime=0)
BAD = [
    ("x", b"", "is no IDX file: it has 0 bytes, and its beginning alone takes 16"),
    ("x", BY_HAND[:15], "is no IDX file: it has 15 bytes"),
    ("x", BY_HAND[:-1], "is damaged: 2 x 1 x 3 values were announced, and 5 are there"),
    ("x", BY_HAND + b"!", "is damaged: 2 x 1 x 3 values were announced, and 7 are there"),
    # Sizes that would take more memory than there is, if one believed them.
    ("x", header(0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"!", "values were announced, and 1 are there"),
    ("x", idx(np.zeros(40)), "begins with 0x00000801, not 0x00000803"),  # labels in the place of images
    ("x", header(0xD03, 1, 1, 1) + bytes(4), "begins with 0x00000d03, not 0x00000803"),  # float32
    ("x", b"<!DOCTYPE html><html>", "begins with 0x3c21444f"),
    ("x", PACKED, "begins with 0x1f8b0800"),  # gzipped, and not called so
    ("x.gz", b"", "is no IDX file: it has 0 bytes"),
    ("x.gz", BY_HAND, "is damaged: Not a gzipped file"),
    ("x.gz", PACKED[:-9], "is damaged: Compressed file ended before the end-of-stream marker"),
    ("x.gz", PACKED[:-8] + bytes(8), "is damaged: CRC check failed"),
    ("x.gz", PACKED[:10] + bytes([255] * 20), "is damaged: Error -3 while decompressing data"),
    ("x.gz", gzip.compress(BY_HAND[:-1]), "is damaged: 2 x 1 x 3 values were announced, and 5 are there"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD, ids=[row[2][-40:] for row in BAD])
def test_any_other_file_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_idx(tmp_path / name, 3)
    assert str(error.value).startswith(f"{tmp_path / name} ")
    assert words in str(error.value)
