"""Files from the web: each of a known checksum, and whole or not there at any time, whoever else fetches it."""

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pooch

from metronome.units import InputError, RunFailed

if TYPE_CHECKING:
    import requests

log = logging.getLogger("metronome.data")

_SECONDS = 10  # that a server may take to accept, to answer, and between two parts of a file
_PART = ".part"  # what the name of a folder ends with in which a file is written
_ABANDONED_SECONDS = 600  # a running download is written to far more often


class RemoteFiles:
    """Files that lie in a folder, or are downloaded to it.

        files = RemoteFiles({"x.npy": "sha256:..."}, ["https://example.org/files/"], "datasets/mine")
        files.fetch()                    # in prepare_data, which one process runs
        numpy.load(files.path("x.npy"))  # in load

    A file that is there is not downloaded. In place of one whose name ends with .gz an unpacked one, without .gz, will
    do; of it no checksum is known.

    Args:
        checksums: the name of each file, and its checksum as `md5:...` or `sha256:...`.
        known_mirrors: addresses of folders on the web with the files in them, tried in turn.
        folder: where the files lie, or are put; a user knows it as `data.folder`.
        mirrors: addresses to use in place of those known, if not None; a user knows them as `data.mirrors`.

    Raises:
        InputError: for a folder or mirrors that can be none.
    """

    def __init__(
        self,
        checksums: Mapping[str, str],
        known_mirrors: Sequence[str],
        folder: str | Path,
        mirrors: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(folder, str | Path) or not str(folder):
            raise InputError(f"data.folder={folder!r} is not the name of a folder")
        mirrors = known_mirrors if mirrors is None else mirrors
        example = f"for example data.mirrors=[{known_mirrors[0]}]"
        if not isinstance(mirrors, list | tuple) or not mirrors or not all(map(_is_address, mirrors)):
            raise InputError(f"data.mirrors={mirrors!r} is not a list of web addresses; {example}")
        if any(mark in mirror for mirror in mirrors for mark in "?#"):
            raise InputError(
                f"data.mirrors={mirrors!r} has an address with ? or #, and the name of a file cannot follow these; "
                f"give the address of a folder, {example}"
            )
        self.checksums, self.folder, self.mirrors = dict(checksums), Path(folder).expanduser(), list(mirrors)

    def fetch(self) -> None:
        """Check the files that are there, and download those that are not.

        Raises:
            InputError: for a file that is damaged or another, and a folder that cannot be made or written to.
            RunFailed: if no mirror gives a file that is missing. An error leaves no folder that was not there.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"data.folder={self.folder} is a file; give a folder")
        self._remove_abandoned()
        for name in self.checksums:
            self._check(name)
        missing = self._missing()
        if not missing:
            return
        with _made(self.folder):
            log.info("downloading %s to %s", ", ".join(missing), self.folder)
            mirrors = self.mirrors
            for name in missing:
                best = self._download(name, mirrors)
                # First in line for the next file, so that one that is silent is waited for once.
                mirrors = sorted(mirrors, key=lambda mirror: mirror != best)

    def path(self, name: str) -> Path:
        """Where a file lies. Raises InputError if it is missing."""
        path = self._find(name)
        if path is None:
            raise InputError(f"{self.folder} has no {name}; prepare_data() downloads it")
        return path

    def are_there(self, names: Sequence[str]) -> bool:
        """Whether all these files lie in the folder."""
        return all(self._find(name) is not None for name in names)

    def _find(self, name: str) -> Path | None:
        paths = (self.folder / name, self.folder / name.removesuffix(".gz"))
        path = next((path for path in paths if path.exists()), None)
        if path is not None and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise InputError(f"{path} is {kind}, and must be a file; move it away, and the file is downloaded")
        return path

    def _missing(self) -> list[str]:
        return [name for name in self.checksums if self._find(name) is None]

    def _check(self, name: str) -> None:
        path = self._find(name)
        if path is None or path.name != name:
            return
        kind, checksum = self.checksums[name].split(":")
        if (found := pooch.file_hash(path, alg=kind)) != checksum:
            raise InputError(
                f"{path} is damaged, or another file: its {kind.upper()} is {found}, and it must be {checksum}; "
                "delete it, and it is downloaded anew"
            )

    def _download(self, name: str, mirrors: Sequence[str]) -> str:
        """One file, from the first mirror that gives it, which is returned."""
        reasons = []
        for mirror in mirrors:
            try:
                self._take(name, mirror)
            except _NotGiven as error:
                reasons.append(f"{mirror} {error}")
            else:
                return mirror
        raise RunFailed(
            f"{name} cannot be downloaded: {'; '.join(reasons)}; put {', '.join(self._missing())} into {self.folder} "
            "yourself, or name another mirror: data.mirrors=[https://...]"
        )

    def _take(self, name: str, mirror: str) -> None:
        """One file from one mirror. What is not whole never has its name."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # another process, which failed, may have taken it away
            aside = TemporaryDirectory(prefix=f"{name}.", suffix=_PART, dir=self.folder)
        except OSError as error:
            raise InputError(f"data.folder={self.folder} cannot be written to; give another one") from error
        with aside as folder:
            part = Path(folder, name)
            _write(f"{mirror.rstrip('/')}/{name}", part)
            kind, checksum = self.checksums[name].split(":")
            if pooch.file_hash(part, alg=kind) != checksum:
                raise _NotGiven(f"gives another file, of another {kind.upper()}")
            part.chmod(0o644)
            os.replace(part, self.folder / name)

    def _remove_abandoned(self) -> None:
        """Remove what downloads that were killed have left, and not what another process is writing just now."""
        for left in [path for name in self.checksums for path in self.folder.glob(f"{name}.*{_PART}")]:
            with suppress(OSError):  # another was faster
                if time.time() - max(path.stat().st_mtime for path in (left, *left.iterdir())) > _ABANDONED_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)  # not in a folder that is only read


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


def _write(url: str, path: Path) -> None:
    """What a server gives, byte by byte as it lies there. Raises _NotGiven."""
    import requests  # here, since only a download should wait for it
    import urllib3

    download = pooch.HTTPDownloader(
        chunk_size=2**16,
        timeout=_SECONDS,
        headers={"Accept-Encoding": "identity"},
        hooks={"response": _leave_packed},
    )
    try:
        download(url, str(path), None)
    except requests.HTTPError as error:
        raise _NotGiven(f"answers {error.response.status_code} {error.response.reason}") from error  # pyright: ignore
    except requests.exceptions.ChunkedEncodingError as error:
        raise _NotGiven("breaks off") from error
    except (requests.RequestException, ValueError) as error:  # the second for names that can be none
        # A server that is silent within a file is a ConnectionError, which came of a timeout.
        if isinstance(error, requests.Timeout) or isinstance(error.__context__, urllib3.exceptions.TimeoutError):
            raise _NotGiven(f"is silent for {_SECONDS} seconds") from error
        raise _NotGiven("does not answer") from error


def _leave_packed(answer: "requests.Response", **_: object) -> None:
    """Some servers declare the .gz of a file's name as the encoding of the transfer, and requests would unpack it."""
    answer.raw.headers.discard("Content-Encoding")
