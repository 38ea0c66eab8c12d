"""The template in a folder of its own, to change it there."""

import shutil
from pathlib import Path

from commands import PROJECT

# By name, since beside them lies what runs and tools have left.
_PARTS = ("conf", "src", "scripts", "tests", ".github", "pyproject.toml", "README.md", "LICENSE")


def copy_of_template(folder: Path) -> Path:
    """A copy of the checkout as it is now, without what git ignores; give `PYTHONPATH=<copy>/src` to use it."""
    folder.mkdir()
    for part in _PARTS:
        if (path := PROJECT / part).is_dir():
            shutil.copytree(path, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif path.exists():
            shutil.copy(path, folder / part)
    return folder
