"""Addresses of storages, such as s3://bucket/project: what they lead to, and in one line why they lead nowhere."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metronome.units import InputError, RunFailed

# What keeps names alone, and has no folders to be made.
_FLAT = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "hf", "memory"}
_EXAMPLE = "write it such as s3://bucket/project, gs://bucket/project or file:///mnt/shared/project"


class Unreachable(RunFailed):
    """A storage that cannot be read from or written to now."""


@dataclass(frozen=True)
class Place:
    """A folder or a file in a storage: its file system (fsspec's), its path there, and its address, for words."""

    fs: Any
    path: str
    address: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.fs, f"{self.path.rstrip('/')}/{name}", f"{self.address.rstrip('/')}/{name}")

    @property
    def is_local(self) -> bool:
        return "file" in _protocols(self.fs)

    @property
    def is_flat(self) -> bool:
        """Whether files need no folder to be made for them; to make one may make a whole bucket."""
        return bool(_FLAT & _protocols(self.fs))

    def names(self, depth: int | None = None) -> list[str]:
        """The files below, by their names from here; nothing where there is no such folder."""
        self.fs.invalidate_cache()  # other machines write there
        try:
            found = self.fs.find(self.path, maxdepth=depth)
        except (FileNotFoundError, NotADirectoryError):
            return []
        start = f"{self.path.strip('/')}/"
        return [name.lstrip("/").removeprefix(start) for name in found if name.lstrip("/").startswith(start)]


def is_address(text: object) -> bool:
    """Whether a path is one in a storage.

    >>> is_address("s3://bucket/run/checkpoints/best.ckpt"), is_address("runs/digits/a/checkpoints/best.ckpt")
    (True, False)
    """
    return re.match(r"[\w+.-]+(::[\w+.-]+)*://", str(text)) is not None


def place_of(address: str, key: str = "") -> Place:
    """Where an address leads; nothing is asked of it yet. A path without `://` is one of this machine.

    Args:
        address: as it was typed.
        key: what it was typed for, for words: `storage=`.

    Raises:
        InputError: for a protocol that nobody knows or whose package is not there, an address without a bucket, or
            one with a password in it.
    """
    from fsspec.core import url_to_fs

    for name in ("aiobotocore", "botocore"):  # which say where they have found credentials
        logging.getLogger(name).setLevel(logging.WARNING)
    said = f"{key}{address}"
    protocol, _, rest = address.partition("://") if is_address(address) else ("file", "", address)
    host = rest.partition("/")[0]
    if re.match(r"[^/@]*:[^/@]*@", rest):
        said = f"{key}{protocol}://...@{rest.rpartition('@')[2]}"
        raise InputError(
            f"{said} has a password in it, which would be kept in config.yaml and in each checkpoint; leave it out, "
            "and give it as the file system takes it: environment variables, or ~/.config/fsspec"
        )
    if not rest.strip("/ ") or (not host and protocol in _FLAT - {"memory"}):
        raise InputError(f"{said} names no {'folder' if protocol in ('file', 'local') else 'bucket'}; {_EXAMPLE}")
    if not is_address(address):
        address = str(Path(address).absolute())
    try:
        fs, path = url_to_fs(address)
    except ImportError as error:
        raise InputError(f"{said} needs the package {_package(protocol, error)}") from error
    except ValueError as error:
        if "rotocol not known" not in str(error):
            raise InputError(f"{said} cannot be read: {reason(error)}") from error
        raise InputError(f"{said}: no file system is called {protocol}; {_EXAMPLE}") from error
    except Exception as error:  # credentials that are not there, for one
        raise InputError(f"{said} cannot be opened: {reason(error)}") from error
    return Place(fs, str(path).rstrip("/"), address.rstrip("/"))


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Whatever a file system raises, as one line that says in what: `reading s3://bucket/project`."""
    try:
        yield
    except (InputError, RunFailed):
        raise
    except Exception as error:  # each file system has errors of its own
        raise Unreachable(f"{doing}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """An error of a file system in a few words."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return text[:200] if len(text.split()) > 1 else f"{name} {text}".strip()


def _protocols(fs: Any) -> set[str]:
    protocol = fs.protocol
    return {protocol} if isinstance(protocol, str) else set(protocol)


def _package(protocol: str, error: ImportError) -> str:
    """The package that a protocol needs, and how to install it."""
    from fsspec.registry import known_implementations

    module = known_implementations.get(protocol, {}).get("class", "").split(".")[0]
    cause = error.__cause__ or error.__context__
    if module in ("", "fsspec"):  # fsspec has the file system, and needs another package for it
        module = getattr(cause, "name", None) or getattr(error, "name", None) or protocol
    package = module.split(".")[0].replace("_", "-")
    return f"{package}, which is not there; install it with: pip install {package}"
