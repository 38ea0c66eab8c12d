"""The checkpoints of a run on one host, with what tells them from those of the same name on another."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

from metronome.runs.folders import RunFolder
from metronome.runs.names import CONFIG_FILE, PLAN_FILE, RESULT_FILE
from metronome.units import InputError


def whole_checkpoints(folder: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By their names in the folder: `steps`, and a `digest` of the contents. Those that `read` refuses are left out."""
    found: dict[str, dict[str, Any]] = {}
    for file in RunFolder(folder).checkpoints:
        try:
            checkpoint = read(file)
        except InputError:
            continue
        found[str(file.relative_to(folder))] = {
            "steps": checkpoint["global_step"],
            "digest": f"{checkpoint['global_step']} {digest_of(file)}",
        }
    return found


def small_files(folder: Path) -> dict[str, str]:
    """The files that say what the run is and how it ended, with a digest."""
    files = [folder / name for name in (CONFIG_FILE, PLAN_FILE, RESULT_FILE)]
    return {file.name: digest_of(file) for file in files if file.is_file()}


def digest_of(file: Path) -> str:
    """Of a checkpoint the sums that its archive has of its tensors: it has been read to its last byte, and need not be
    again."""
    digest = hashlib.sha256()
    try:
        if is_zipfile(file):
            with ZipFile(file) as archive:
                for part in archive.infolist():
                    if part.filename.endswith("/data.pkl"):
                        continue  # in which paths differ from host to host
                    digest.update(f"{part.filename.partition('/')[2]} {part.CRC} {part.file_size}\n".encode())
            return digest.hexdigest()
    except (BadZipFile, OSError):
        pass
    digest.update(file.read_bytes())
    return digest.hexdigest()
