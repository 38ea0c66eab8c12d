"""What a folder in a storage holds: a list, written last. Only what the newest whole list names counts.

A file is stored under a name that has its digest in it, `checkpoints/last-0f3a5c7e9b1d.ckpt`, and never changed. So
that storing a newer state touches nothing of the older one, and needs no store that can rename or replace: the lists
are numbered, `manifest-00000007.json`, each with its own digest inside, and one that is cut off is passed over.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from metronome.runs.storage.address import Place
from metronome.units import InputError

_FORMAT = 1
_MANIFEST = re.compile(r"manifest-(\d{8})\.json")
_OBJECT = re.compile(r".*-[0-9a-f]{12}(\.[^./]*)?")
_TRIES = 5


@dataclass(frozen=True)
class Entry:
    """A stored file: under which name it lies there, and what it must be."""

    stored: str
    size: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    """A state of a folder, whole.

    Attributes:
        number: counts up; the highest is the newest.
        writer: who has written it.
        about: what the folder holds (`overrides`, `status`; `sweep`), so that nothing else need be fetched to choose.
        files: by their names in the folder.
    """

    number: int
    writer: str
    about: Mapping[str, Any]
    files: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files.values())

    def as_bytes(self) -> bytes:
        content = {
            "format": _FORMAT, "number": self.number, "writer": self.writer, "about": dict(self.about),
            "files": {name: vars(entry) for name, entry in self.files.items()},
        }  # fmt: skip
        return json.dumps(content | {"sha256": _digest(content)}, indent=1).encode()

    @classmethod
    def of_bytes(cls, data: bytes) -> "Manifest | None":
        """None for one that is cut off or changed, or of another format.

        Raises:
            InputError: for names that lead out of the folder.
        """
        try:
            content = json.loads(data)
            digest = content.pop("sha256")
            if digest != _digest(content) or content.pop("format") != _FORMAT:
                return None
            files = {name: Entry(**entry) for name, entry in content.pop("files").items()}
            manifest = cls(files=files, **content)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        for name in [*files, *(entry.stored for entry in files.values())]:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
                raise InputError(f"a manifest in the storage names {name!r}, which lies outside of its folder")
        return manifest


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stored_name(name: str, sha256: str) -> str:
    """
    >>> stored_name("checkpoints/last.ckpt", "0f3a5c7e9b1d22")
    'checkpoints/last-0f3a5c7e9b1d.ckpt'
    """
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{sha256[:12]}{path.suffix}"))


def is_stored_name(name: str) -> bool:
    return _OBJECT.fullmatch(name) is not None


def manifest_name(number: int) -> str:
    return f"manifest-{number:08d}.json"


def number_of(name: str) -> int | None:
    """The number of a manifest, by its name; None for another file."""
    found = _MANIFEST.fullmatch(name)
    return None if found is None else int(found[1])


def numbers_in(place: Place) -> list[int]:
    """The numbers of the manifests in a folder, the newest first."""
    return sorted((n for name in place.names(depth=1) if (n := number_of(name)) is not None), reverse=True)


def newest(place: Place) -> Manifest | None:
    """What a folder holds; None if nothing whole has been stored there."""
    for _ in range(_TRIES):
        has_gone = False
        for number in numbers_in(place):
            try:
                manifest = Manifest.of_bytes(place.fs.cat_file((place / manifest_name(number)).path))
            except FileNotFoundError:  # a newer one has taken its place meanwhile
                has_gone = True
                continue
            if manifest is not None:
                return manifest
        if not has_gone:
            break
    return None


def folders_in(place: Place, depth: int | None = None) -> dict[str, Manifest]:
    """What all folders below hold, by their names from here; depth 2: of those that lie right in it."""
    folders: dict[str, list[int]] = {}
    for name in place.names(depth):
        folder, _, file = name.rpartition("/")
        if (number := number_of(file)) is not None:
            folders.setdefault(folder, []).append(number)
    names = {folder: (place / folder / manifest_name(max(found))).path for folder, found in folders.items()}
    # A store far away is asked for all of them at once.
    contents = place.fs.cat(list(names.values()), on_error="return") if names else {}
    contents = contents if isinstance(contents, dict) else {next(iter(names.values())): contents}
    held: dict[str, Manifest] = {}
    for folder, path in names.items():
        data = contents.get(path, contents.get(path.lstrip("/")))
        manifest = Manifest.of_bytes(data) if isinstance(data, bytes) else None
        manifest = manifest or newest(place / folder if folder else place)
        if manifest is not None:
            held[folder] = manifest
    return dict(sorted(held.items()))
