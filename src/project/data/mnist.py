"""MNIST and Fashion-MNIST: downloaded once, checked, and kept as the gzipped files that they are published as."""

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pooch
import torch
from torch import Tensor

from metronome.data import DataModule, Splits
from metronome.data.idx import read_idx
from metronome.training.checkpoints.files import PART
from metronome.units import InputError, RunFailed

if TYPE_CHECKING:
    import requests

log = logging.getLogger("metronome.data")

_SECONDS = 10  # until a mirror counts as silent
_FEWEST_BYTES = 10_000  # that must come in so many seconds, or a file of 10 MB would take hours
_ABANDONED_SECONDS = 600  # a running download is written to far more often: a slower one is given up


class MNIST(DataModule):
    """70,000 handwritten digits of 28x28 pixels in 10 classes: 60,000 to train, 5,000 to validate, 5,000 to test.

    A batch is `(images, labels)`: float32 of shape (samples, 1, 28, 28), from 0 to 1, and int64 of shape (samples,).

    All of the published training set is trained on. The published test set of 10,000 is dealt out in turn: the first
    image validates, the second tests, and so on. Its first half is cleaner and easier than its second, says its
    authors' page, so halves would differ; dealt out, both sets have the same share of each, whatever the seed. The test
    accuracy is thus one over 5,000 images, none of which had a say in which checkpoint is best.

    Source: Y. LeCun, L. Bottou, Y. Bengio & P. Haffner (1998), Gradient-based learning applied to document recognition.

    Args:
        folder: where the files lie, or are put. A file that is there is not downloaded, and unpacked ones
            (`train-images-idx3-ubyte`, without .gz) will do; of these no checksum is known.
        mirrors: addresses of folders on the web with the files in them, tried in turn; None for those known.
        options: those of `DataModule`.

    Raises:
        InputError: for a file in the folder that is another, damaged, or does not fit the others.
        RunFailed: in `prepare_data`, if no mirror gives a file that is missing.
    """

    known_mirrors: ClassVar[Sequence[str]] = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    # The MD5 of each file, gzipped, as in torchvision's datasets/mnist.py.
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    def __init__(
        self, folder: str | Path = "datasets/mnist", mirrors: Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        if not isinstance(folder, str | Path) or not str(folder):
            raise InputError(f"data.folder={folder!r} is not the name of a folder")
        mirrors = self.known_mirrors if mirrors is None else mirrors
        if not isinstance(mirrors, list | tuple) or not mirrors or not all(map(_is_address, mirrors)):
            raise InputError(
                f"data.mirrors={mirrors!r} is not a list of web addresses; for example data.mirrors="
                f"[{self.known_mirrors[0]}]"
            )
        if any(mark in mirror for mirror in mirrors for mark in "?#"):
            raise InputError(
                f"data.mirrors={mirrors!r} has an address with ? or #, and the name of a file cannot follow these; "
                f"give the address of a folder, for example data.mirrors=[{self.known_mirrors[0]}]"
            )
        self.folder, self.mirrors = Path(folder).expanduser(), list(mirrors)

    def prepare_data(self) -> None:
        """Check the files that are there, and download those that are not: each is whole or not there at any time,
        though several processes do this at once."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"data.folder={self.folder} is a file; give a folder")
        self._remove_abandoned()
        for name in self.checksums:
            self._check(name)
        missing = [f"{name}.gz" for name in self.checksums if self._path(name) is None]
        if not missing:
            return
        with _made(self.folder):
            log.info("downloading %s to %s", ", ".join(missing), self.folder)
            mirrors = self.mirrors
            for name in missing:
                best = self._download(name, mirrors)
                # First in line for the next file, so that one that is silent is waited for once.
                mirrors = [best, *(mirror for mirror in mirrors if mirror != best)]

    def load(self) -> Splits:
        train, rest = self._read("train"), self._read("t10k")
        val, test = (tuple(column[start::2] for column in rest) for start in (0, 1))
        return Splits(train, val, test)

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        images, labels = self._idx(f"{part}-images-idx3-ubyte", 3), self._idx(f"{part}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise InputError(
                f"the {part} files in {self.folder} do not belong together: {len(images):,} images and "
                f"{len(labels):,} labels"
            )
        # 4 bytes a pixel are 220 MB for all of it; bytes would be a quarter, to be converted again in every batch.
        pixels = torch.from_numpy(images.astype(np.float32)).div_(255)
        return pixels.unsqueeze(1), torch.from_numpy(labels.astype(np.int64))

    def _idx(self, name: str, num_dimensions: int) -> np.ndarray:
        path = self._path(name)
        if path is None:
            raise InputError(f"{self.folder} has no {name}.gz; prepare_data() downloads it")
        return read_idx(path, num_dimensions)

    def _path(self, name: str) -> Path | None:
        """The file of that name, gzipped or not; None if it is missing."""
        paths = (self.folder / f"{name}.gz", self.folder / name)
        path = next((path for path in paths if path.exists()), None)
        if path is not None and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise InputError(f"{path} is {kind}, and must be a file; move it away, and the file is downloaded")
        return path

    def _check(self, name: str) -> None:
        path = self._path(name)
        if (
            path is not None
            and path.suffix == ".gz"
            and (found := pooch.file_hash(path, alg="md5")) != self.checksums[name]
        ):
            raise InputError(
                f"{path} is damaged, or another file: its MD5 is {found}, and it must be {self.checksums[name]}; "
                "delete it, and it is downloaded anew"
            )

    def _download(self, name: str, mirrors: Sequence[str]) -> str:
        """One file, from the first mirror that gives it, which is returned. What is not whole never has its name."""
        pooch.get_logger().setLevel(logging.WARNING)  # one line has been said for all files
        path, reasons = self.folder / name, []
        for mirror in mirrors:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)  # another process, which failed, may have taken it away
                with TemporaryDirectory(prefix=f"{name}.", suffix=PART, dir=self.folder) as aside:
                    url, md5 = f"{mirror.rstrip('/')}/{name}", f"md5:{self.checksums[path.stem]}"
                    whole = pooch.retrieve(url, md5, fname=name, path=aside, downloader=_fetch)  # pyright: ignore
                    os.chmod(whole, 0o644)  # pooch leaves it to its owner alone
                    os.replace(whole, path)
            except _NotGiven as error:
                reasons.append(f"{mirror} {error}")
            except ValueError:
                reasons.append(f"{mirror} gives another file, of another MD5")
            except PermissionError as error:
                raise InputError(f"data.folder={self.folder} cannot be written to; give another one") from error
            else:
                return mirror
        missing = [f"{name}.gz" for name in self.checksums if self._path(name) is None]
        raise RunFailed(
            f"{name} cannot be downloaded: {'; '.join(reasons)}; put {', '.join(missing)} into {self.folder} yourself, "
            "or name another mirror: data.mirrors=[https://...]"
        )

    def _remove_abandoned(self) -> None:
        """Remove what downloads that were killed have left, and not what another process is writing just now."""
        for left in [path for name in self.checksums for path in self.folder.glob(f"{name}.gz.*{PART}")]:
            with suppress(OSError):  # another was faster
                if time.time() - max(path.stat().st_mtime for path in (left, *left.iterdir())) > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)  # not in a folder that is only read


class FashionMNIST(MNIST):
    """70,000 images of clothes, in the sizes and the format of MNIST, to be used in its place.

    Source: H. Xiao, K. Rasul & R. Vollgraf (2017), arXiv 1708.07747.
    """

    known_mirrors = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    )
    # As in the authors' README.
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }

    def __init__(
        self, folder: str | Path = "datasets/fashion_mnist", mirrors: Sequence[str] | None = None, **options: Any
    ) -> None:
        super().__init__(folder, mirrors, **options)


class _NotGiven(Exception):
    """A mirror does not give a file; says why."""


def _is_address(mirror: object) -> bool:
    return isinstance(mirror, str) and re.fullmatch(r"https?://[^/\s]\S*", mirror) is not None


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder; an error takes it away again, and those made above it, unless something has come into it."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.folder={folder} cannot be made: {error.strerror}; give another one") from error
        yield
    except BaseException:
        with suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def _fetch(url: str, file: str, _: object) -> None:
    """Write what a server gives, byte by byte as it lies there, to a file: a downloader for pooch."""
    import urllib3  # it comes with requests, and both only where something is downloaded

    with _answer(url) as answer:
        if not answer.ok:
            raise _NotGiven(f"answers {answer.status_code} {answer.reason}")
        try:
            with open(file, "wb") as out:
                begin, num_bytes = time.monotonic(), 0
                # What has come, at once: to wait for a number of bytes would hide how slowly they come. Not unpacked:
                # some servers declare the .gz of a file's name as the encoding of the transfer.
                while part := answer.raw.read1(2**16, decode_content=False):
                    out.write(part)
                    num_bytes += len(part)
                    if time.monotonic() - begin >= _SECONDS:
                        if num_bytes < _FEWEST_BYTES:
                            raise _NotGiven(f"gives fewer than {_FEWEST_BYTES:,} bytes in {_SECONDS} seconds")
                        begin, num_bytes = time.monotonic(), 0
        except urllib3.exceptions.ReadTimeoutError as error:
            raise _NotGiven(f"is silent for {_SECONDS} seconds") from error
        except urllib3.exceptions.HTTPError as error:
            raise _NotGiven("breaks off") from error


def _answer(url: str) -> "requests.Response":
    """A server's answer; its body is still to come.

    It is asked for in a thread, which is left behind when it takes too long: without a network a system may look for
    the name of a server for half a minute, then try its addresses one by one, and no timeout of a connection ends that.
    """
    import requests

    answers: SimpleQueue[requests.Response | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(requests.get(url, stream=True, timeout=_SECONDS, headers={"Accept-Encoding": "identity"}))
        except Exception as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=_SECONDS)
    except Empty:
        raise _NotGiven(f"is silent for {_SECONDS} seconds") from None
    if isinstance(answer, requests.RequestException | ValueError):  # the second for names that can be none
        raise _NotGiven("does not answer") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer
