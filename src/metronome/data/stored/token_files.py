"""Files of tokens, one number after the other as nanoGPT writes them, cut into samples: windows, or documents."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metronome.data.stored.pages import Pages
from metronome.data.stored.stored import Stored
from metronome.units import InputError

NO_LABEL = -100  # where nothing is to be predicted: what `cross_entropy` leaves out
_AT_ONCE = 2**24  # tokens that are looked through for the ends of documents at once


class TokenFile:
    """The tokens of a file, mapped.

    Args:
        path: of numbers of `dtype` alone, in this machine's order of bytes.
        dtype: `uint16` or `uint32`.
        num_tokens: kinds of tokens; each number in the file is below it.

    Raises:
        InputError: if it is not there, has nothing to predict, or is cut short.
    """

    def __init__(self, path: Path, dtype: str, num_tokens: int) -> None:
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        size, item = path.stat().st_size, np.dtype(dtype).itemsize
        if size % item:
            raise InputError(
                f"{path} is cut short, or of another type: its {size:,} bytes are no multiple of {item}, the bytes of "
                f"a {dtype}"
            )
        if size < 2 * item:
            raise InputError(f"{path} has {size // item} tokens, and it takes two for one to be predicted")
        self.path, self.dtype, self.num_tokens = path, dtype, num_tokens
        root = np.memmap(path, dtype=dtype, mode="r")
        self.tokens, self.pages = np.asarray(root), Pages(root)

    def __len__(self) -> int:
        return len(self.tokens)

    def __reduce__(self) -> Any:
        return TokenFile, (self.path, self.dtype, self.num_tokens)

    def pieces(self, starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
        """The tokens of these pieces, -1 behind them: int64, shape (pieces, length)."""
        found = np.full((len(starts), length), -1)

        def take() -> None:
            for row, start, end in zip(found, starts.tolist(), ends.tolist(), strict=True):
                row[: end - start] = self.tokens[start:end]

        item = self.tokens.itemsize
        self.pages.read(take, starts * item, length * item)
        if len(found) and (most := int(found.max())) >= self.num_tokens:
            raise InputError(
                f"{self.path} has token {most:,}, and data.num_tokens={self.num_tokens} allows those below; give the "
                "number of kinds of tokens, and the type of the file: data.dtype=uint16 or uint32"
            )
        return found


class PackedTokens(Stored):
    """Windows of `length` tokens, one after the other: in an epoch each token but the first is predicted once.

    A batch is `{"input_ids", "labels"}`, int64 of shape (samples, length). The last window may be shorter; its rest is
    token 0, with the label -100.
    """

    def __init__(self, file: TokenFile, length: int) -> None:
        self.file, self.length = file, length

    def __len__(self) -> int:
        return -(-(len(self.file) - 1) // self.length)

    def read(self, rows: np.ndarray) -> dict[str, Tensor]:
        starts = rows * self.length
        found = self.file.pieces(starts, np.minimum(starts + self.length + 1, len(self.file)), self.length + 1)
        return _inputs_and_labels(found[:, :-1], found[:, 1:])


class Documents(Stored):
    """One document a sample, or a piece of one that is longer than `length`: in an epoch each token is predicted once.

    A batch is `{"input_ids", "labels"}`, int64 of shape (samples, length of the longest document in it). A document's
    first token is predicted from the end token alone, what follows from all of it so far that is in the sample. Behind
    its end are token 0, and the label -100.

    Args:
        file: of the tokens.
        starts: where each sample starts, and at last where the file ends: int64, shape (samples + 1,). What
            `document_starts` maps.
        end_token: behind each document.
    """

    fill: Any = {"input_ids": 0, "labels": NO_LABEL}  # noqa: RUF012

    def __init__(self, file: TokenFile, starts: np.ndarray, end_token: int) -> None:
        self.file, self.starts, self.end_token = file, starts, end_token

    def __len__(self) -> int:
        return len(self.starts) - 1

    def read(self, rows: np.ndarray) -> dict[str, Tensor]:
        starts, ends = np.asarray(self.starts[rows]), np.asarray(self.starts[rows + 1])
        before = np.maximum(starts - 1, 0)
        found = self.file.pieces(before, ends, int((ends - starts).max()) + 1)
        if (first := starts == 0).any():  # of the file, before which no document ended
            found[first, 1:] = found[first, :-1]
            found[first, 0] = self.end_token
        return _inputs_and_labels(found[:, :-1], found[:, 1:])

    def __reduce__(self) -> Any:
        starts: Any = self.starts
        return _documents, (self.file, starts.filename, self.end_token)


def document_starts(file: TokenFile, end_token: int, length: int) -> np.ndarray:
    """Where the samples of `Documents` start, in a file beside that of the tokens, which is made where it is not there
    or is older. Many documents take no more memory than few.

    Raises:
        InputError: if it cannot be written.
    """
    path = file.path.with_name(f"{file.path.stem}.documents_{end_token}_{length}.int64")
    if not (path.exists() and path.stat().st_mtime_ns >= file.path.stat().st_mtime_ns):
        _write_starts(path, file, end_token, length)
    starts = np.memmap(path, dtype=np.int64, mode="r")
    if starts[-1] != len(file):
        raise InputError(f"{path} is of another file of tokens; delete it, and it is made anew")
    return starts


def _write_starts(path: Path, file: TokenFile, end_token: int, length: int) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            begins = 0
            for first in range(0, len(file), _AT_ONCE):
                ends = first + 1 + np.flatnonzero(file.tokens[first : first + _AT_ONCE] == end_token)
                if first + _AT_ONCE >= len(file) and (not len(ends) or ends[-1] != len(file)):
                    ends = np.append(ends, len(file))  # the last one has no end token
                if not len(ends):
                    continue
                starts = np.concatenate([[begins], ends[:-1]])
                pieces = -(-(ends - starts) // length)
                within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
                (np.repeat(starts, pieces) + length * within).astype(np.int64).tofile(out)
                begins = int(ends[-1])
            np.array([len(file)], np.int64).tofile(out)
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}; copy {file.path.name} to a folder where it can"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _documents(file: TokenFile, starts: str, end_token: int) -> Documents:
    return Documents(file, np.memmap(starts, dtype=np.int64, mode="r"), end_token)


def _inputs_and_labels(inputs: np.ndarray, labels: np.ndarray) -> dict[str, Tensor]:
    """Where there is no label there is nothing to read either."""
    is_behind = labels < 0
    return {
        "input_ids": torch.from_numpy(np.where(is_behind, 0, inputs)),
        "labels": torch.from_numpy(np.where(is_behind, NO_LABEL, labels)),
    }
